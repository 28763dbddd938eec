"""BN before or after: each verdict from typed-in steps, and a short run."""

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.bn_before_activation import ACTIVATIONS, ARMS, judge, plot, run


def typed_in(*after: float) -> list[Measurement]:
    usual: Measurement = {}
    for name, steps in zip(ACTIVATIONS, after, strict=True):
        usual |= {f"{name}, none": 50.0, f"{name}, BN": 20.0, f"{name}, BN after": steps}
    return [usual, usual]


@pytest.mark.parametrize(
    ("measurements", "verdict"),
    [
        (typed_in(25.0, 25.0, 25.0), Verdict.SUPPORTED),
        (typed_in(25.0, 25.0, 20.0), Verdict.PARTLY),
        (typed_in(20.0, 15.0, 21.0), Verdict.REFUTED),
        ([*typed_in(18.0, 15.0, 20.0)[:1], *typed_in(25.0, 15.0, 20.0)[:1]], Verdict.INCONCLUSIVE),
    ],
)
def test_each_activation_counts(measurements: list[Measurement], verdict: Verdict) -> None:
    assert judge(measurements).verdict is verdict


def test_the_reason_names_factors_and_steps() -> None:
    assert "1.25 [1.25, 1.25] under relu (50 / 20 / 25 without norm" in judge(typed_in(25.0, 20.0, 20.0)).reason


def test_a_short_run_has_all_arms() -> None:
    measured = run(0, "cpu", steps=1)
    assert all(measured[f"{name}, {arm}"] == 2 for name in ACTIVATIONS for arm in ARMS)


def test_the_figure_has_a_panel_for_each_activation() -> None:
    assert [axis.get_title() for axis in plot(typed_in(1.0, 2.0, 3.0)).axes] == list(ACTIVATIONS)
