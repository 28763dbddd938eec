"""The little control: each verdict from typed-in exponents, the first step by hand, and a short run."""

import pytest
import torch

from truestep.lab import Interval, Measurement, Verdict
from truestep.lab._digits import digits
from truestep.lab.claims.lr_little_control import LRS, effective, exponent, judge, plot, run, train, verdict


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"whole": 0.6, "upper": 0.2, "lower": 0.9, "sphere": 1.0, "step": [0.0, 1.0]}
    usual |= {"whole_curve": [1.0, 0.6], "upper_curve": [1.0, 0.2]}
    usual |= {f"effective_{i}": [lr, lr**0.6] for i, lr in enumerate(LRS)}
    return [usual | changed, usual | changed]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Verdict.PARTLY),
        ({"whole": 0.4}, Verdict.SUPPORTED),
        ({"upper": 0.6}, Verdict.REFUTED),
        ({"sphere": 0.8}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_exponents_decide(changed: dict[str, float], expected: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is expected


def test_an_interval_across_the_threshold_tells_nothing() -> None:
    one, low, across = Interval(1.0, 1.0, 1.0), Interval(0.2, 0.1, 0.3), Interval(0.5, 0.45, 0.55)
    assert verdict(across, low, one) is Verdict.INCONCLUSIVE
    assert verdict(Interval(0.6, 0.55, 0.65), across, one) is Verdict.INCONCLUSIVE


def test_the_reason_sets_the_lrs_beside_their_effective_lrs() -> None:
    assert "lrs a factor 1000 apart have effective lrs 63.1 apart" in judge(typed_in()).reason  # 1000^.6


def test_without_influence_the_exponent_is_0() -> None:
    lrs = torch.tensor(LRS, dtype=torch.float64)
    values = torch.stack([lrs, torch.ones_like(lrs), 5 * lrs**0.25])
    torch.testing.assert_close(exponent(lrs, values), torch.tensor([1.0, 0.0, 0.25], dtype=torch.float64))


def test_the_effective_lr_is_the_lr_over_the_squared_norm() -> None:
    hidden = [torch.full((2, 3, 4), 0.5), torch.full((2, 3, 1), 1.0)]  # ‖w‖² = 1
    hidden[0][1] *= 2.0  # half of the units: 4, geometric mean 2
    lrs = torch.tensor([0.1, 0.1], dtype=torch.float64)
    torch.testing.assert_close(effective(hidden, lrs), torch.tensor([0.1, 0.05], dtype=torch.float64))


def test_the_sphere_keeps_full_control_and_norms_that_grow_do_not() -> None:
    trace, loss = train(digits(), torch.Generator().manual_seed(0), 30)
    lrs = torch.tensor(LRS, dtype=torch.float64)
    torch.testing.assert_close(trace[:, len(LRS) :], lrs.expand(30, -1), rtol=1e-6, atol=0)
    assert (trace[1:, : len(LRS)] < trace[:-1, : len(LRS)] * (1 + 1e-6)).all()
    assert loss.shape == (2 * len(LRS),)


def test_control_is_whole_at_the_first_step_and_goes_first_at_large_lrs() -> None:
    measured = run(0, "cpu", steps=30)
    assert measured["whole_curve"][0] == pytest.approx(1.0, rel=1e-12)
    assert measured["upper"] < measured["whole"] < measured["lower"] < 1
    assert measured["sphere"] == pytest.approx(1.0, abs=1e-5)
    assert run(0, "cpu", steps=2) == run(0, "cpu", steps=2)


def test_the_figure_names_each_lr_once() -> None:
    left, right = plot(typed_in()).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == [f"lr {lr:g}" for lr in LRS]
    assert "threshold" in [text.get_text() for text in right.get_legend().get_texts()]
