"""Noise behind a normalization: its laws, and that nothing of it is left in evaluation."""

import pytest
import torch
from torch import Tensor

from truestep.conditioning.centering import NoisyShift, noisy_shift, unit_noise


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2), (4, 3, 2, 5)])
def test_a_layer_does_what_its_functions_do_with_the_same_draws(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    shift, factor = unit_noise(x, 0.3, 2.0, 0.2, seeded())
    assert torch.equal(NoisyShift(0.3, 2.0, 0.2, generator=seeded())(x), noisy_shift(x, shift, factor))


def test_the_scale_comes_first_and_then_the_shift() -> None:
    y = noisy_shift(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]]), torch.tensor([[3.0, 2.0]]))
    assert y.tolist() == [[3.5, 3.0]]


def test_all_places_of_a_sample_share_the_noise_of_their_unit() -> None:
    y = NoisyShift()(torch.ones(4, 3, 2, 5)).flatten(2)
    assert torch.equal(y, y[..., :1].expand_as(y))


def test_without_jitter_a_unit_has_one_shift_and_one_scale() -> None:
    shift, factor = unit_noise(torch.zeros(4, 3), jitter=0)
    assert torch.equal(shift, shift[:1].expand(4, 3))
    assert torch.equal(factor, factor[:1].expand(4, 3))


def assert_moments(x: Tensor, mean: float, variance: float) -> None:
    """Within five standard errors of a law whose fourth moment is at most three times its squared variance."""
    n = x.numel()
    assert abs(float(x.mean()) - mean) < 5 * (variance / n) ** 0.5
    assert abs(float(x.var()) - variance) < 5 * variance * (2 / n) ** 0.5


def test_units_have_uniform_shifts_and_scales() -> None:
    shift, factor = unit_noise(torch.zeros(1, 40_000, dtype=torch.float64), 0.5, 1.25, 0.0, seeded())
    assert_moments(shift, 0.0, 0.5**2 / 3)
    assert_moments(factor, 1.125, 0.25**2 / 12)
    assert float(shift.abs().max()) <= 0.5
    assert 1 <= float(factor.min()) <= float(factor.max()) <= 1.25


def test_samples_jitter_uniformly_in_shift_and_normally_in_scale() -> None:
    shift, factor = unit_noise(torch.zeros(40_000, 1, dtype=torch.float64), 0.0, 1.0, 0.1, seeded())
    assert_moments(shift, 0.0, 0.1**2 / 3)
    assert float(shift.abs().max()) <= 0.1
    assert_moments(factor, 1.0, 0.1**2)
    assert float((factor - 1).abs().max()) > 0.3  # no bound of 0.1, as a uniform jitter would have


def test_every_training_pass_draws_anew_and_a_seed_draws_the_same() -> None:
    x = torch.randn(6, 3)
    layer = NoisyShift(generator=seeded())
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    assert torch.equal(first, NoisyShift(generator=seeded())(x))


def test_a_generator_of_its_own_leaves_torchs_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    NoisyShift(generator=seeded())(torch.randn(0, 3))
    NoisyShift(generator=seeded())(torch.zeros(6, 3))
    assert torch.equal(torch.get_rng_state(), before)
    NoisyShift()(torch.zeros(6, 3))
    assert not torch.equal(torch.get_rng_state(), before)


def test_evaluation_is_the_identity_and_draws_nothing() -> None:
    before, x = torch.get_rng_state(), torch.zeros(6, 3)
    assert NoisyShift().eval()(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_no_noise_at_all_is_the_identity() -> None:
    x = torch.randn(6, 3)
    assert torch.equal(NoisyShift(0, 1, 0)(x), x)


def test_the_gradient_is_multiplied_with_the_scale_of_its_sample_and_unit() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    shift, factor = unit_noise(x)
    (gradient,) = torch.autograd.grad(noisy_shift(x, shift, factor).sum(), x)
    assert torch.equal(gradient, factor)


def test_half_precision_stays_half_precision() -> None:
    x = torch.ones(4, 3, dtype=torch.bfloat16)
    shift, factor = unit_noise(x)
    assert shift.dtype == factor.dtype == torch.float32
    assert NoisyShift()(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mean": -1}, "`mean` must be a number from 0 on, found -1"),
        ({"jitter": float("nan")}, "`jitter` must be a number from 0 on, found nan"),
        ({"scale": 0}, "`scale` must be a positive number .* found 0"),
    ],
)
def test_settings_of_no_meaning_are_refused(settings: dict[str, float], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        NoisyShift(**settings)
