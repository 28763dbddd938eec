"""Steps compared over seeds."""

import math

import pytest

from truestep.lab import Measurement
from truestep.lab._steps import NEVER, mean_steps, plot_steps, ratio, times


def test_ratios_are_paired_by_seed() -> None:
    found: list[Measurement] = [{"a": 10.0, "b": 5.0}, {"a": 80.0, "b": 40.0}]
    interval = ratio(found, "a", "b")
    assert interval.low == pytest.approx(math.log(2))
    assert times(interval) == "2.00 [2.00, 2.00]"


def test_a_seed_that_never_got_there_makes_the_mean_a_lower_bound() -> None:
    assert mean_steps([{"a": 10.0}, {"a": float(NEVER)}], "a") == "55 or more"


def test_each_variant_has_a_column_of_dots() -> None:
    (axis,) = plot_steps([{"relu, BN": 3.0, "relu, none": 9.0}], {"relu": ["none", "BN"]}).axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["none", "BN"]
    assert [line.get_ydata()[0] for line in axis.lines[:2]] == [9, 3]
