"""Angle, relative update and the two learning rates, from the sums of a Gram."""

from math import atan2, cos, pi, sin, sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from truestep.core import Gram, Recorder, Step, gram
from truestep.invariance import angular_update, effective_lr, intrinsic_lr, relative_update

POWERS = st.integers(-10, 10).map(lambda power: 10.0**power)


def turned(angle: float, length: float, size: int = 50) -> tuple[Tensor, Tensor]:
    """A weight, and the step that turns it by `angle` and multiplies its norm by `length`."""
    w, other = torch.randn(2, size, dtype=torch.float64)
    other -= w * (w @ other) / (w @ w)
    other *= w.norm() / other.norm()
    # (cos - 1) without its cancellation: -2 sin²(angle / 2)
    d = w * (length * -2 * sin(angle / 2) ** 2 + (length - 1)) + other * length * sin(angle)
    return w, d


def test_a_right_angled_step_of_a_quarter() -> None:
    w, g, d = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    assert float(angular_update(gram(w, g, d))) == pytest.approx(pi / 4, rel=1e-15)
    assert float(relative_update(gram(w, g, d))) == 1.0


@pytest.mark.parametrize(
    ("d", "angle"),
    [((0.0, 0.0), 0.0), ((1.5, 0.0), 0.0), ((-1.5, 0.0), 0.0), ((-6.0, 0.0), pi), ((-3.0, 3.0), pi / 2)],
    ids=["none", "longer", "shorter", "turned over", "square"],
)
def test_the_hand_worked_angles(d: tuple[float, float], angle: float) -> None:
    w = torch.tensor([3.0, 0.0])
    assert float(angular_update(gram(w, w, torch.tensor(d)))) == pytest.approx(angle, abs=1e-15)


@pytest.mark.parametrize("length", [1.0, 0.5, 0.99, 2.0])
@pytest.mark.parametrize("angle", [1e-8, 1e-6, 1e-3, 0.1, 1.0, pi / 2, 2.0, 3.0])
def test_every_angle_is_found_from_a_hundredth_of_a_microradian_on(angle: float, length: float) -> None:
    w, d = turned(angle, length)
    found = float(angular_update(gram(w, w, d)))
    # the tangential part stands in |d|² beside the radial one and loses what float64 has not (16 digits of |d|²)
    radial = abs(length * cos(angle) - 1)
    lost = 50 * 2**-52 * (radial / (length * sin(angle))) ** 2
    assert found == pytest.approx(angle, rel=1e-9 + lost)


@given(angle=st.floats(1e-8, 3.0))
def test_a_step_that_keeps_the_norm_has_its_angle_to_nine_digits(angle: float) -> None:
    w, d = turned(angle, 1.0)
    rejected = d - w * (w @ d) / (w @ w)
    explicit = atan2(float(rejected.norm()), float(w.norm() + (w @ d) / w.norm()))
    assert float(angular_update(gram(w, w, d))) == pytest.approx(explicit, rel=1e-9)
    assert explicit == pytest.approx(angle, rel=1e-7)


def test_the_arccosine_in_float32_would_see_no_small_angle() -> None:
    w, d = turned(1e-4, 1.0)
    cosine = torch.nn.functional.cosine_similarity(w.float(), (w + d).float(), dim=0)
    assert abs(float(cosine.clamp(max=1.0).acos()) - 1e-4) > 2e-5
    assert float(angular_update(gram(w.float(), w.float(), d.float()))) == pytest.approx(1e-4, rel=1e-5)


@given(c=POWERS)
def test_angle_and_relative_update_do_not_see_the_scale_of_the_weights(c: float) -> None:
    w, g, d = torch.randn(3, 20, dtype=torch.float64)
    for formula in (angular_update, relative_update):
        torch.testing.assert_close(formula(gram(c * w, g, c * d)), formula(gram(w, g, d)), rtol=1e-12, atol=0)


@given(c=POWERS)
def test_angle_relative_update_and_effective_lr_do_not_see_the_gradient(c: float) -> None:
    w, g, d = torch.randn(3, 20, dtype=torch.float64)
    one, other = gram(w, g, d), gram(w, c * torch.randn_like(g), d)
    for formula in (angular_update, relative_update, lambda record: effective_lr(record, 0.1)):
        assert torch.equal(formula(one), formula(other))


@given(c=POWERS)
def test_the_effective_lr_falls_with_the_square_of_the_norm(c: float) -> None:
    w, g, d = torch.randn(3, 20, dtype=torch.float64)
    scaled = effective_lr(gram(c * w, g, d), 0.1) * c**2
    torch.testing.assert_close(scaled, effective_lr(gram(w, g, d), 0.1), rtol=1e-12, atol=0)


def test_the_hand_worked_learning_rates() -> None:
    w = torch.tensor([3.0, 4.0])
    assert float(effective_lr(gram(w, w, w), 0.5)) == 0.02
    assert intrinsic_lr(0.5, 0.01) == 0.005


def test_blocks_have_each_their_own() -> None:
    w, d = torch.eye(3, dtype=torch.float64) * torch.tensor([1.0, 2.0, 4.0]), torch.full((3, 3), 0.1)
    record = gram(w, w, d, unit_dim=0)
    lr = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    assert effective_lr(record, lr).tolist() == [1.0, 0.5, 0.25]
    assert effective_lr(record, 1.0).tolist() == [1.0, 0.25, 0.0625]
    torch.testing.assert_close(relative_update(record), sqrt(0.03) / lr, rtol=1e-6, atol=0)
    assert angular_update(record).shape == (3,)
    torch.testing.assert_close(intrinsic_lr(lr, lr / 4), lr**2 / 4)


def test_a_zero_block_has_no_angle() -> None:
    zero, one = torch.zeros(2), torch.ones(2)
    assert angular_update(gram(zero, one, one)).isnan()
    assert relative_update(gram(zero, one, one)).isinf()
    assert relative_update(gram(zero, one, zero)).isnan()


def test_a_sum_that_rounding_left_below_zero_gives_no_nan() -> None:
    one = torch.tensor(1.0, dtype=torch.float64)
    record = Gram(one, 0 * one, -one * 1e-3, one, 0 * one, one * 1e-6 * (1 - 1e-15))
    assert float(angular_update(record)) == 0.0


def test_sgd_on_a_scale_invariant_weight_turns_by_the_effective_lr_times_the_gradient_at_the_sphere() -> None:
    w = torch.randn(10, dtype=torch.float64, requires_grad=True)
    target = torch.randn(10, dtype=torch.float64)
    (g,) = torch.autograd.grad((w / w.norm() * target).sum(), w)
    unit = (w / w.norm()).detach().requires_grad_()
    (at_sphere,) = torch.autograd.grad((unit / unit.norm() * target).sum(), unit)
    record = gram(w.detach(), g, -0.1 * g)
    expected = torch.atan(effective_lr(record, 0.1) * at_sphere.norm())
    torch.testing.assert_close(angular_update(record), expected, rtol=1e-12, atol=0)


class BatchNormed(nn.Sequential):
    """Two scale-invariant layers (a convolution and a linear one) and a head, float64."""

    def __init__(self) -> None:
        eps: dict[str, Any] = {"eps": 1e-30, "affine": False}
        layers = [nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3, **eps), nn.Tanh(), nn.Flatten()]
        layers += [nn.Linear(27, 4, bias=False), nn.BatchNorm1d(4, **eps), nn.Tanh(), nn.Linear(4, 2)]
        super().__init__(*layers)
        self.double()


def test_each_unit_of_a_scale_invariant_net_grows_by_the_square_of_its_step() -> None:
    model, invariant = BatchNormed(), ("0.weight", "4.weight")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    steps: list[Step] = []
    Recorder(dict(model.named_parameters()), optimizer, steps.append, units=invariant)
    norms: list[Tensor] = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(16, 1, 5, 5).double()), torch.randint(2, (16,)))
        loss.backward()
        optimizer.step()
        weights = (model[0].weight, model[4].weight)
        norms.append(torch.cat([w.detach().flatten(1).square().sum(1) for w in weights]))
    for step, squared in zip(steps, norms, strict=True):
        assert step.names[:7] == (*(f"0.weight[{i}]" for i in range(3)), *(f"4.weight[{i}]" for i in range(4)))
        took = Gram.from_columns(step.took.columns()[:7])
        torch.testing.assert_close(squared, took.ww + took.dd, rtol=1e-12, atol=0)
        assert bool((took.wg.abs() <= 1e-12 * (took.ww * took.gg).sqrt()).all())
        assert bool((took.dd > 1e-8 * took.ww).all())  # so that the identity says something
    assert [len(step.names) for step in steps] == [9] * 20
