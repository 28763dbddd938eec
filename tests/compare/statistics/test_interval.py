"""Student's interval: against scipy's own, how often it misses, and how it is written."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from truestep.compare.statistics import Interval, paired_interval, student_bounds, t_quantile


def test_the_interval_is_students() -> None:
    values = torch.tensor([1.0, 2.5, 2.0, 4.0, 3.5], dtype=torch.float64)
    low, high = stats.t.interval(0.9, 4, loc=2.6, scale=stats.sem(values.numpy()))
    found = paired_interval(values, 0.9)
    assert (found.mean, found.low, found.high) == pytest.approx((2.6, low, high), rel=1e-12)


def test_rows_are_intervals_of_their_own() -> None:
    rows = torch.randn(2, 3, 8)
    mean, low, high = student_bounds(rows)
    assert mean.shape == (2, 3)
    row = paired_interval(rows[1, 2])
    assert (row.mean, row.low, row.high) == (float(mean[1, 2]), float(low[1, 2]), float(high[1, 2]))


def test_two_copies_are_called_different_in_five_of_a_hundred() -> None:
    _, low, high = student_bounds(torch.randn(20_000, 8))
    assert float(((low > 0) | (high < 0)).double().mean()) == pytest.approx(0.05, abs=0.005)


def test_the_sign_of_the_differences_turns_the_interval_round() -> None:
    values = torch.randn(8)
    there, back = paired_interval(values), paired_interval(-values)
    assert (back.mean, back.low, back.high) == (-there.mean, -there.high, -there.low)


@pytest.mark.parametrize("values", [torch.full((8,), 0.25), torch.full((2,), 3)])
def test_equal_values_leave_no_width(values: Tensor) -> None:
    value = float(values[0])
    assert paired_interval(values) == Interval(value, value, value)


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(ValueError, match="`seeds` must be at least 2 for an interval, found 1"):
        paired_interval(torch.ones(1))


@pytest.mark.parametrize("level", [0.0, 1.0, math.nan])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError, match="`level` must be between 0 and 1"):
        t_quantile(8, level)


def test_an_interval_excludes_what_lies_outside() -> None:
    interval = Interval(0.0, -1.0, 1.0)
    assert [interval.excludes(x) for x in (-1.1, -1, 0, 1, 1.1)] == [True, False, False, False, True]
    assert interval.meets(Interval(2.0, 1.0, 3.0))
    assert not interval.meets(Interval(2.0, 1.5, 3.0))


def test_an_interval_that_is_not_known_excludes_and_meets_nothing() -> None:
    unknown = paired_interval(torch.tensor([1.0, math.nan]))
    assert not unknown.excludes(0)
    assert not unknown.meets(Interval(1.0, 0.0, 2.0))


def test_minus_is_written_as_one_reads_it() -> None:
    assert str(Interval(-0.0352, -0.038, 1e-5)) == "−0.0352 [−0.038, 1e−05]"
