"""When a window counts as right, and when a factor as the number that it is named after."""

import pytest
from tests.loss.accumulation.evidence import evidence, multiple

from truestep.loss.accumulation._evidence import Window, is_close


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


def test_closeness_is_relative_and_grows_with_the_tolerance() -> None:
    assert is_close(4000.0, 4001, 1e-5)
    assert not is_close(4.0, 4.01, 1e-5)
    assert is_close(4.0, 4.01, 1e-2)


def test_a_sum_is_too_large_by_the_weight_or_else_by_any_count() -> None:
    assert Window(4, weight=12.5, counts=(3, 9)).totals == (12.5,)
    assert Window(4, counts=(3, 9)).totals == (3, 9)
