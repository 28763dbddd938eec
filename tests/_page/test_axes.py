"""Axes in plain numbers."""

from math import inf, log10, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truestep._page import log_axis, log_ticks, loss_axis, lr_axis


def test_a_logarithmic_axis_holds_all_values() -> None:
    low, high = log_axis([1e-3, 5.0])["range"]
    assert low < -3
    assert high > log10(5)


@pytest.mark.parametrize("nothing", [[], [nan], [0.0], [-1.0]])
def test_an_axis_of_nothing_positive_is_left_to_plotly(nothing) -> None:
    assert log_axis(nothing) == {"type": "log"}


def test_the_lr_axis_starts_at_zero_unless_the_lrs_are_far_apart() -> None:
    assert lr_axis([0.1, 0.05])["range"][0] == 0
    assert lr_axis([0.1, 0.0])["range"][0] == 0
    assert lr_axis([0.1, 0.001])["type"] == "log"


def test_losses_are_on_a_logarithmic_axis_where_all_are_positive() -> None:
    assert loss_axis([1.0, 0.1, inf])["type"] == "log"
    assert loss_axis([1.0, -0.1]) == {}


@given(low=st.floats(-12, 12), span=st.floats(0.02, 20), least=st.integers(2, 5))
def test_ticks_are_rising_inside_the_axis_and_neither_one_nor_many(low, span, least) -> None:
    ticks = log_ticks(low, low + span, least)
    assert ticks == sorted(set(ticks))
    assert all(low - 1e-9 <= log10(tick) <= low + span + 1e-9 for tick in ticks)
    assert least - 1 <= len(ticks) <= 24
