"""ICS Conditioning: each verdict from typed-in steps and shares, and a short run."""

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.ics_conditioning import ARMS, UNCENTRED, judge, plot, run

STEPS = {"none": 80.0, "standardizing": 20.0, "BN": 20.0, "BN direct": 45.0}  # the knockout loses 58 % of the gain
SHARES = {"none": 0.8, "BN": 0.1, "BN direct": 0.7}


def typed_in(**changed: float) -> list[Measurement]:
    """`changed` is of relu, by the arm or by `arm: share`, with _ for a blank."""
    usual: Measurement = {"tanh, BN": 20.0, "tanh, BN direct": 21.0}
    for name in UNCENTRED:
        usual |= {f"{name}, {arm}": steps for arm, steps in STEPS.items()}
        usual |= {f"{name}, {arm}: share": share for arm, share in SHARES.items()}
    usual |= {f"relu, {arm.replace('_', ' ')}": value for arm, value in changed.items()}
    return [usual, usual]


def everywhere(**changed: float) -> list[Measurement]:
    (usual, _) = typed_in()
    for name in UNCENTRED:
        usual |= {f"{name}, {arm.replace('_', ' ')}": value for arm, value in changed.items()}
    return [usual, usual]


@pytest.mark.parametrize(
    ("measurements", "verdict"),
    [
        (typed_in(), Verdict.SUPPORTED),
        (typed_in(BN_direct=30.0), Verdict.PARTLY),  # less than half of the gain
        (typed_in(standardizing=90.0), Verdict.PARTLY),
        (typed_in(**{"BN:_share": 0.5}), Verdict.PARTLY),
        (typed_in(**{"BN_direct:_share": 0.3}), Verdict.PARTLY),
        (everywhere(BN_direct=20.0), Verdict.REFUTED),
        (everywhere(**{"BN:_share": 0.7}), Verdict.REFUTED),
        (everywhere(standardizing=90.0), Verdict.INCONCLUSIVE),
        (typed_in(BN=90.0), Verdict.INCONCLUSIVE),
        ([m | {"tanh, BN direct": 26.0} for m in typed_in()], Verdict.INCONCLUSIVE),
    ],
)
def test_the_knockout_decides(measurements: list[Measurement], verdict: Verdict) -> None:
    assert judge(measurements).verdict is verdict


def test_the_reason_says_what_the_outliers_return_costs() -> None:
    reason = judge(typed_in()).reason
    assert "relu: share of curvature along the mean 0.80 / 0.10 / 0.70 and steps 80 / 20 / 45" in reason
    assert "costs 2.25 [2.25, 2.25], 58% of BN's gain in log steps" in reason


def test_a_short_run_has_all_arms_and_finds_the_outliers_gone() -> None:
    measured = run(0, "cpu", steps=1)
    assert all(measured[f"{name}, {arm}"] == 2 for name in UNCENTRED for arm in ARMS)
    for name in UNCENTRED:
        none, bn, direct = (float(measured[f"{name}, {arm}: share"]) for arm in ("none", "BN", "BN direct"))  # type: ignore[arg-type]
        assert bn < 0.2 < 0.35 < min(none, direct)


def test_the_figure_has_a_panel_for_each_activation() -> None:
    assert [axis.get_title() for axis in plot(typed_in()).axes] == [*UNCENTRED, "tanh"]
