"""The period keeps what watching costs within its share, and moves slowly."""

from math import log2
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truestep.monitor._budget import LARGEST, Cadence

seconds = st.floats(1e-5, 1e2)


def settled(step: float, cost: float, *, budget: float = 0.01, every_step: float = 0.0, start: int = 1) -> Cadence:
    """A cadence after as many equal recorded steps as it can need."""
    cadence = Cadence("auto", budget)
    cadence.period = start
    for _ in range(50):
        tell(cadence, step, cost, every_step)
    return cadence


def tell(cadence: Cadence, step: float, cost: float, every_step: float = 0.0) -> None:
    steps = cadence.period
    cadence.recorded(steps=steps, seconds=step * steps, cost=cost, every_step=every_step)


@given(seconds, seconds, st.floats(0.001, 1.0))
def test_the_share_of_the_time_stays_within_the_budget(step: float, cost: float, budget: float) -> None:
    cadence = settled(step, cost, budget=budget)
    assert cadence.period == LARGEST or cost / cadence.period <= budget * step * (1 + 1e-9)


@given(seconds, seconds, st.floats(0.001, 1.0), st.sampled_from([1, 64, 4096, LARGEST]))
def test_recorded_is_as_often_as_a_factor_of_five_allows(step: float, cost: float, budget: float, start: int) -> None:
    period = settled(step, cost, budget=budget, start=start).period
    assert period == 1 or cost / period * 5.001 > budget * step  # half a period would cost 0.8 of the budget or more


@given(seconds, seconds)
def test_a_cost_on_every_step_is_paid_from_the_same_budget(step: float, cost: float) -> None:
    every_step = 0.004 * step
    period = settled(step, cost, every_step=every_step).period
    assert period == LARGEST or cost / period + every_step <= 0.01 * step * (1 + 1e-9)


def test_where_every_step_alone_costs_too_much_recording_is_as_seldom_as_it_gets() -> None:
    assert settled(1e-4, 1e-3, every_step=1e-5).period == LARGEST


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=30))
def test_the_period_is_a_power_of_two_and_moves_by_one_factor_of_two(measured: list[tuple[float, float]]) -> None:
    cadence, before = Cadence("auto"), 1
    for step, cost in measured:
        tell(cadence, step, cost)
        assert log2(cadence.period).is_integer()
        assert cadence.period in (before // 2, before, 2 * before)
        before = cadence.period


@pytest.mark.parametrize("noise", [0.8, 1.0, 1.2])
def test_a_period_just_affordable_does_not_swing(noise: float) -> None:
    cadence, periods = settled(0.1, 0.0155), list[int]()  # once in 15.5 steps
    for factor in (noise, 1.0) * 20:
        tell(cadence, 0.1, 0.0155 * factor)
        periods.append(cadence.period)
    assert len(set(periods[20:])) == 1


def test_one_slow_step_changes_nothing() -> None:
    cadence = settled(0.1, 0.016)
    tell(cadence, 0.1, 1e3)
    tell(cadence, 1e3, 0.016)
    assert cadence.period == 16


@pytest.mark.parametrize("every", [1, 3, 10])
def test_a_fixed_period_stays_whatever_it_costs(every: int) -> None:
    cadence = Cadence(every, 0.01)
    tell(cadence, 1e-6, 1e3)
    assert [index for index in range(31) if cadence.due(index)] == list(range(0, 31, every))


def test_a_thinned_record_is_never_recorded_more_often_again() -> None:
    auto, fixed = Cadence("auto"), Cadence(3)
    for cadence in (auto, fixed):
        cadence.at_least(4)
    assert (auto.period, fixed.period) == (4, 6)
    for _ in range(10):
        tell(auto, 1e3, 1e-9)
    assert auto.period == 4


@pytest.mark.parametrize("every", [0, -1, 2.0, True, "sometimes", None])
def test_an_impossible_period_is_refused(every: Any, unchecked: None) -> None:
    with pytest.raises(ValueError, match=r'`every` must be "auto" or a positive number of steps, found'):
        Cadence(every)


@pytest.mark.parametrize("budget", [0.0, -0.1, 1.5, float("nan")])
def test_an_impossible_budget_is_refused(budget: float) -> None:
    with pytest.raises(ValueError, match=r"`budget` is a share of the wall time and must be in \(0, 1\], found"):
        Cadence("auto", budget)
