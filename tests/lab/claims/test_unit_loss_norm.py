"""The unit loss's gradient norm: each verdict from typed-in exponents, and the exponents of short runs."""

import pytest
import torch
from torch.nn.functional import mse_loss

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.unit_loss_norm import (
    LOSSES,
    MODELS,
    SCALES,
    WAYS,
    grown,
    judge,
    one_sample,
    plot,
    residual,
    run,
    slope,
    unit_norm,
)


def exponents(**changed: float) -> list[Measurement]:
    usual: Measurement = {"scale": list(SCALES), "entropy_loss": [1.0, 2.0], "entropy_norm": [1.0, 0.5]}
    for name in (*(f"{m}_{w}" for m in MODELS for w in WAYS), *(f"residual_{loss}" for loss in LOSSES)):
        usual |= {name: 0.0, f"{name}_norm": [1.0] * len(SCALES)}
    return [usual | changed, usual | {name: value * 1.01 for name, value in changed.items()}]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"residual_mse": -1.0}, Verdict.PARTLY),
        ({"tanh_inputs": 0.2}, Verdict.PARTLY),
        ({"linear_both": -1.0}, Verdict.REFUTED),
        ({"linear_both": 1.0}, Verdict.REFUTED),
        ({"linear_both": 0.1}, Verdict.INCONCLUSIVE),  # .1 and .101: the interval crosses the bound
    ],
)
def test_the_listing_decides_and_the_rest_says_whether_it_is_general(
    changed: dict[str, float], verdict: Verdict
) -> None:
    assert judge(exponents(**changed)).verdict is verdict


def test_the_norm_is_that_of_the_logarithms_gradient() -> None:
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(model.weight, 3.0)
    x, y = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    norm = unit_norm(model, mse_loss(model(x), y))  # L = (2w - 1)², L'/L = 4 / (2w - 1)
    torch.testing.assert_close(norm, torch.tensor(0.8, dtype=torch.float64))


def test_a_power_law_has_its_exponent() -> None:
    scales = torch.tensor(SCALES, dtype=torch.float64)
    assert slope(5 * scales**-0.5) == pytest.approx(-0.5)
    assert slope(1 / scales + 1e3 / scales**5, start=100.0) == pytest.approx(-1.0, abs=1e-4)


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_with_the_residual_alone_the_norm_is_one_over_it_whatever_the_degree(loss: str) -> None:
    norms = residual(LOSSES[loss], 0, "cpu", 1)
    torch.testing.assert_close(norms * torch.tensor(SCALES, dtype=torch.float64), norms[0].expand(len(SCALES)))


def test_only_inputs_and_targets_together_leave_a_linear_layer_stable() -> None:
    assert abs(slope(grown("linear", WAYS["both"], 0, "cpu", 3))) < 0.02
    assert slope(grown("linear", WAYS["targets"], 0, "cpu", 3)) == pytest.approx(-1, abs=0.02)


def test_batchnorm_does_not_hear_the_inputs_scale() -> None:
    norms = grown("batchnorm", WAYS["inputs"], 0, "cpu", 1)
    torch.testing.assert_close(norms, norms[0].expand(len(SCALES)), rtol=1e-4, atol=0)


def test_cross_entropy_is_bounded_at_the_good_end_and_fades_at_the_bad_one() -> None:
    losses, norms = one_sample()
    assert norms[-1] == pytest.approx((1 + 1 / 9) ** 0.5, rel=1e-6)  # p_k = (1 - p) / 9 for the nine others
    assert losses[0] * norms[0] == pytest.approx((1 + 1 / 9) ** 0.5, rel=1e-6)


def test_a_seed_gives_the_same_bits_again_and_another_seed_others() -> None:
    assert run(1, "cpu", draws=1) == run(1, "cpu", draws=1)
    assert run(1, "cpu", draws=1)["linear_both_norm"] != run(2, "cpu", draws=1)["linear_both_norm"]


def test_the_figure_names_each_loss_with_its_exponent() -> None:
    middle = plot(exponents(residual_mse=-1.0)).axes[1]
    labels = [text.get_text() for text in middle.get_legend().get_texts()]
    assert labels == ["mse: s^-1.00", "l1: s^0.00", "huber: s^0.00"]
