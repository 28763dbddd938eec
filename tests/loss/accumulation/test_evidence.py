"""When a window counts as right, and when a factor as the number that it is named after."""

import pytest
from tests.loss.accumulation.evidence import evidence, multiple, turned

from truestep.loss.accumulation._comparison import Comparison
from truestep.loss.accumulation._evidence import Evidence, Window, is_close


@pytest.mark.parametrize(
    ("error", "tolerance", "same"),
    [(1e-6, 1e-5, True), (1e-4, 1e-5, False), (0.4, 0.45, True), (0.4, 0.6, False), (float("nan"), 1e-5, False)],
)
def test_a_window_is_right_up_to_its_tolerance_unless_that_hides_a_factor_of_two(
    error: float, tolerance: float, same: bool
) -> None:
    assert evidence(multiple(1.0 + error), tolerance=tolerance).same == same


def test_a_factor_must_explain_half_of_the_window_too() -> None:
    assert evidence(multiple(4.0)).is_factor(4, 2)
    assert evidence(multiple(4.0), half=2.0).is_factor(4, 2)
    assert not evidence(multiple(4.0), half=4.0).is_factor(4, 2)
    assert not evidence(multiple(4.1), half=2.0).is_factor(4, 2)


@pytest.mark.parametrize(("tolerance", "near"), [(1e-9, 1e-3), (2e-5, 1e-3), (3e-2, 6e-2), (0.27, 0.1), (0.45, 0.1)])
def test_what_rounding_may_leave_grows_with_the_tolerance_but_never_to_a_gradient_of_its_own(
    tolerance: float, near: float
) -> None:
    assert evidence(multiple(4.0), tolerance=tolerance).near == near


def test_a_direction_is_straight_up_to_rounding_and_to_what_a_loop_varies() -> None:
    assert evidence(turned(5e-5), tolerance=2e-5).straight
    assert not evidence(turned(7e-5), tolerance=2e-5).straight
    assert evidence(turned(0.2), tolerance=0.27).straight
    assert not evidence(turned(0.3), tolerance=0.27).straight


NAN = float("nan")
TOLD: dict[str, tuple[Evidence, bool]] = {
    "right": (evidence(multiple(1.0)), True),
    "wrong": (evidence(multiple(4.0)), True),
    "no number": (evidence(Comparison(NAN, 1.0, NAN, NAN, NAN, NAN)), True),
    "no number to compare with": (evidence(Comparison(1.0, NAN, NAN, NAN, NAN, NAN)), True),
    "no gradient": (evidence(Comparison(0.0, 1.0, 0.0, NAN, 1.0, NAN)), True),
    "no gradient of a loop that varies": (evidence(Comparison(0.0, 1.0, 0.0, NAN, 1.0, NAN), tolerance=0.6), True),
    "no target": (evidence(multiple(1.0), weight=0.0), False),
    "nothing to compare with": (evidence(Comparison(1.0, 0.0, NAN, NAN, NAN, NAN)), False),
    "noise": (evidence(multiple(4.0), tolerance=0.6), False),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_has_nothing_to_be_compared_with_is_not_judged(name: str) -> None:
    found, judged = TOLD[name]
    assert found.judged == judged


def test_closeness_is_relative_and_grows_with_the_tolerance() -> None:
    assert is_close(4000.0, 4001, 1e-5)
    assert not is_close(4.0, 4.01, 1e-5)
    assert is_close(4.0, 4.01, 1e-2)


def test_a_sum_is_too_large_by_the_weight_or_else_by_any_count() -> None:
    assert Window(4, weight=12.5, counts=(3, 9)).totals == (12.5,)
    assert Window(4, counts=(3, 9)).totals == (3, 9)
