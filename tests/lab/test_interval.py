"""Intervals: against scipy's own, and when two of them meet."""

import pytest
from scipy import stats

from truestep.lab import Interval, t_interval


def test_the_interval_is_students() -> None:
    values = [1.0, 2.5, 2.0, 4.0, 3.5]
    low, high = stats.t.interval(0.95, 4, loc=2.6, scale=stats.sem(values))
    interval = t_interval(values)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((2.6, low, high), rel=1e-12)


def test_equal_values_leave_no_width() -> None:
    assert t_interval([0.25] * 8) == Interval(0.25, 0.25, 0.25)


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2 for an interval, found 1"):
        t_interval([1.0])


@pytest.mark.parametrize(
    ("other", "meet"),
    [((2.0, 3.0), True), ((2.1, 3.0), False), ((-1.0, 0.5), False), ((-1.0, 1.0), True), ((1.2, 1.3), True)],
)
def test_intervals_meet_when_they_share_a_point(other: tuple[float, float], meet: bool) -> None:
    a, b = Interval(1.5, 1.0, 2.0), Interval(0.0, *other)
    assert a.meets(b) is b.meets(a) is meet
