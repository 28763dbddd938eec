"""The immune K-FAC: each verdict from typed-in exponents, and short runs of the three arms."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._digits import digits
from truestep.lab._normalized import batch_norm_net
from truestep.lab.claims.kfac_immune import ARMS, CLAIM, exponent, judge, plot, run, train


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"sgd_exponent": 2.0, "kfac_exponent": 1e-14, "damped_exponent": 0.7}
    usual |= {"sgd_difference": 3.0, "kfac_difference": 1e-11, "damped_difference": 1.0}
    for name in ARMS:
        usual |= {f"{name}_growth": 1.1, f"{name}_loss": 0.1}
        usual |= {f"{name}_angles": [0.1, 0.1], f"{name}_angles_large": [0.01, 0.02]}
    return [usual | changed, usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.PARTLY),
        ({"damped_exponent": 0.09}, Verdict.SUPPORTED),
        ({"damped_exponent": -0.11}, Verdict.PARTLY),
        ({"kfac_exponent": 2e-6}, Verdict.REFUTED),
        ({"kfac_exponent": -2e-6}, Verdict.REFUTED),
        ({"kfac_difference": 2e-6}, Verdict.REFUTED),
        ({"sgd_exponent": 0.9}, Verdict.INCONCLUSIVE),
        ({"sgd_difference": 0.009, "kfac_difference": 1.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_undamped_must_be_exact_and_damped_near(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_the_reason_holds_the_exponents() -> None:
    reason = judge(typed_in()).reason
    assert "a = 2 under SGD, 1e-14 under K-FAC" in reason
    assert "the logits end 1e-11 apart (SGD: 3 or more" in reason


def test_a_short_run_tells_the_arms_apart() -> None:
    measured = run(0, "cpu", steps=3)
    assert abs(float(measured["sgd_exponent"]) - 2) < 0.01
    assert abs(measured["kfac_exponent"]) < 1e-9
    assert measured["kfac_difference"] < 1e-9
    assert 0.1 < measured["damped_exponent"] < 2
    assert measured["sgd_difference"] > 1e-3
    assert len(measured["kfac_angles"]) == 1  # of every third step


def test_the_exponent_is_found_without_moving_the_model() -> None:
    model = batch_norm_net(torch.Generator().manual_seed(0), "cpu")
    before = [w.detach().clone() for w in model.parameters()]
    found = exponent(ARMS["sgd"], model, digits(dtype=torch.float64), torch.arange(64), seed=0)
    assert found == pytest.approx(2.0, abs=0.01)
    for w, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(w.detach(), old)


def test_a_step_is_shortened_to_the_trust() -> None:
    course = train(ARMS["kfac"], 1.0, 0, "cpu", 1)
    assert 0.01 < course.angles[0] < 0.5


def test_a_seed_gives_the_same_bits_again() -> None:
    assert run(1, "cpu", steps=2) == run(1, "cpu", steps=2)


def test_the_figure_has_a_panel_for_each_arm() -> None:
    assert [axis.get_title() for axis in plot(typed_in()).axes] == [arm.label for arm in ARMS.values()]
    assert "INCONCLUSIVE" in CLAIM.threshold
