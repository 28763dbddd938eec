"""Another mean and scale behind BN: each verdict from typed-in steps, and a short run."""

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.noise_after_bn import ACTIVATIONS, ARMS, judge, plot, run


def typed_in(moved: float = 20.0, noise: float = 21.0, none: float = 60.0, only: float | None = None) -> Measurement:
    """Steps; `only` is relu's under noise."""
    usual: Measurement = {}
    for name in ACTIVATIONS:
        steps = {"none": none, "BN": 20.0, "BN + moved": moved, "BN + noise": noise}
        usual |= {f"{name}, {arm}": value for arm, value in steps.items()}
    return usual if only is None else usual | {"relu, BN + noise": only}


@pytest.mark.parametrize(
    ("one", "two", "verdict"),
    [
        (typed_in(), typed_in(), Verdict.SUPPORTED),
        (typed_in(noise=30.0), typed_in(noise=30.0), Verdict.PARTLY),
        (typed_in(moved=30.0), typed_in(moved=30.0), Verdict.PARTLY),
        (typed_in(only=26.0), typed_in(only=26.0), Verdict.PARTLY),
        (typed_in(moved=30.0, noise=30.0), typed_in(moved=30.0, noise=30.0), Verdict.REFUTED),
        (typed_in(moved=20.0, noise=20.0), typed_in(moved=40.0, noise=40.0), Verdict.INCONCLUSIVE),
        (typed_in(none=20.0), typed_in(none=20.0), Verdict.INCONCLUSIVE),
    ],
)
def test_both_ways_count(one: Measurement, two: Measurement, verdict: Verdict) -> None:
    assert judge([one, two]).verdict is verdict


def test_a_short_run_has_all_arms() -> None:
    measured = run(0, "cpu", steps=1)
    assert all(measured[f"{name}, {arm}"] == 2 for name in ACTIVATIONS for arm in ARMS)


def test_the_figure_has_a_panel_for_each_activation() -> None:
    assert [axis.get_title() for axis in plot([typed_in()]).axes] == list(ACTIVATIONS)
