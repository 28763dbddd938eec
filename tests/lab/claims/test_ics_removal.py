"""ICS Removal: each verdict from typed-in steps, and a short run."""

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.ics_removal import ACTIVATIONS, ARMS, judge, plot, run

STEPS = {"none": 80.0, "none + ICS": 200.0, "BN": 20.0, "BN + ICS": 25.0}


def typed_in(*names: str, **changed: float) -> list[Measurement]:
    """`changed` is of the activations in `names`, or of all; _ for a blank, x for a plus."""
    usual: Measurement = {}
    for name in ACTIVATIONS:
        usual |= {f"{name}, {arm}": steps for arm, steps in STEPS.items()}
        usual |= {f"{name}, {arm}: nu": 20.0 if "ICS" in arm else 5.0 for arm in ARMS}
    for name in names or ACTIVATIONS:
        for arm, value in changed.items():
            usual[f"{name}, {arm.replace('_', ' ').replace('x', '+')}"] = value
    return [usual, usual]


@pytest.mark.parametrize(
    ("measurements", "verdict"),
    [
        (typed_in(), Verdict.REFUTED),
        (typed_in(BN_x_ICS=80.0), Verdict.SUPPORTED),
        (typed_in("relu", BN_x_ICS=41.0), Verdict.PARTLY),
        (typed_in("relu", BN_x_ICS=39.0), Verdict.REFUTED),
        (typed_in(none_x_ICS=80.0), Verdict.INCONCLUSIVE),
        (typed_in("relu", BN=80.0), Verdict.INCONCLUSIVE),
        (typed_in("relu", **{"BN_x_ICS:_nu": 5.0}), Verdict.INCONCLUSIVE),
        ([typed_in(BN_x_ICS=steps)[0] for steps in (30.0, 70.0)], Verdict.INCONCLUSIVE),
    ],
)
def test_what_is_left_of_the_gain_decides(measurements: list[Measurement], verdict: Verdict) -> None:
    assert judge(measurements).verdict is verdict


def test_a_short_run_shifts_the_inputs() -> None:
    measured = run(0, "cpu", steps=1)
    for name in ACTIVATIONS:
        none, none_ics, bn, bn_ics = (float(measured[f"{name}, {arm}: nu"]) for arm in ARMS)  # type: ignore[arg-type]
        assert min(none_ics, bn_ics) > 2 * max(none, bn)
        assert measured[f"{name}, BN"] == 2


def test_the_figure_has_a_panel_for_each_activation() -> None:
    assert [axis.get_title() for axis in plot(typed_in()).axes] == list(ACTIVATIONS)
