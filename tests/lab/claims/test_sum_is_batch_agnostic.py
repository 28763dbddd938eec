"""The sum's lr and the batch size: each verdict from typed-in gaps, and a short run."""

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab._digits import digits
from truestep.lab.claims.sum_is_batch_agnostic import POWERS, SIZES, SMALL, identity, judge, plot, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"best_slope": 0.0, "identity": 0.0, "sharpness": 4.0, "power": [float(p) for p in POWERS]}
    for size in SIZES:
        usual |= {f"sum_gap_{size}": 0.0, f"mean_gap_{size}": 1.0, f"tuned_gap_{size}": 0.0}
        usual |= {f"best_power_{size}": -5.0, f"loss_{size}": [1.0] * len(POWERS)}
    return [usual | changed] * 2


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"best_slope": -0.8}, Verdict.PARTLY),
        ({"sum_gap_512": 0.5}, Verdict.PARTLY),
        ({"sum_gap_64": 0.5}, Verdict.INCONCLUSIVE),  # breaks inside the reach, but not at twice the batch
        ({"sum_gap_16": 0.5}, Verdict.REFUTED),
        ({"sum_gap_16": -0.5}, Verdict.REFUTED),
        ({"mean_gap_64": 0.05}, Verdict.REFUTED),
    ],
)
def test_the_small_lr_s_reach_and_the_best_lr_s_exponent_decide(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_an_interval_across_the_edge_decides_nothing() -> None:
    low, high = typed_in(sum_gap_16=0.0)[0], typed_in(sum_gap_16=0.2)[0]
    assert judge([low, high]).verdict is Verdict.INCONCLUSIVE


def test_the_sum_at_an_lr_moves_the_weights_as_the_mean_at_lr_times_the_batch() -> None:
    assert identity(digits(), 0, 32) == 0.0


def test_at_a_small_lr_the_sum_s_loss_stays_and_the_mean_s_does_not() -> None:
    measured = run(0, "cpu", powers=(SMALL - 1, SMALL), sizes=(8, 16), epochs=1)
    assert measured["sum_gap_8"] == measured["mean_gap_8"] == 0.0
    assert abs(float(str(measured["sum_gap_16"]))) < 0.005 < 0.05 < float(str(measured["mean_gap_16"]))
    assert measured["best_power_8"] == measured["best_power_16"] == SMALL
    assert measured["best_slope"] == 0.0


def test_the_figure_shows_each_batch_size_on_both_axes() -> None:
    left, right = plot(typed_in()).axes
    assert len(left.lines) == len(right.lines) == len(SIZES) + 1
    assert right.lines[-1].get_xdata()[0] == 2 / 4.0
    ratio = right.lines[3].get_xdata() / left.lines[3].get_xdata()
    assert ratio.tolist() == [SIZES[3]] * len(POWERS)
