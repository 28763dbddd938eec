"""Numbers in words."""

import pytest

from truestep.compare.report._section import Table, span, words


@pytest.mark.parametrize(
    ("value", "told"),
    [(1.5666, "1.57"), (-0.5, "−0.5"), (3, "3"), (1e-7, "1e−07"), (float("-inf"), "−∞"), (float("nan"), "–")],
)
def test_numbers_have_three_digits_and_a_true_minus(value, told: str) -> None:
    assert words(value) == told


def test_a_span_tells_ends_that_are_not_finite() -> None:
    assert span(0.93, (0.9, float("inf"))) == "0.93 [0.9, ∞]"


def test_a_row_has_a_cell_under_every_heading() -> None:
    with pytest.raises(AssertionError):
        Table(("a", "b"), (("1",),))
