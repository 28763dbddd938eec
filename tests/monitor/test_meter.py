"""What watching costs, under a clock that the test turns."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from truestep.monitor import _meter
from truestep.monitor._budget import Cadence
from truestep.monitor._meter import Meter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(_meter.time, "perf_counter", made)
    return made


class Told(Cadence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, float]] = []

    def recorded(self, **measured: Any) -> None:
        self.told.append(measured)


def lane(number: int = 1) -> Any:
    return SimpleNamespace(number=number, recorder=SimpleNamespace(index=0, seconds=0.0, seconds_unrecorded=0.0))


@pytest.fixture
def unchecked_meter(unchecked: None) -> Callable[..., Meter]:
    return Meter


def test_spent_is_hooks_handing_over_writing_and_every_step(
    clock: Clock, unchecked_meter: Callable[..., Meter]
) -> None:
    one, store = lane(), SimpleNamespace(seconds=0.0)
    meter = unchecked_meter((one,), store, Told())
    clock.now += 10.0
    one.recorder = SimpleNamespace(index=100, seconds=0.5, seconds_unrecorded=0.001)
    store.seconds = 0.25
    start = clock.now
    clock.now += 0.125
    meter.recorded(one, 99, start)
    assert meter.spent() == pytest.approx(0.5 + 0.125 + 0.25 + 100 * 0.001)
    assert meter.wall() == 10.125


def test_the_cadence_hears_of_the_time_since_the_recorded_step_before(
    clock: Clock, unchecked_meter: Callable[..., Meter]
) -> None:
    one, store, cadence = lane(), SimpleNamespace(seconds=1.0), Told()
    meter = unchecked_meter((one,), store, cadence)
    meter.recorded(one, 4, clock.now)
    assert cadence.told == []  # one alone spans no time
    clock.now += 8.0
    one.recorder.seconds, one.recorder.seconds_unrecorded, store.seconds = 0.5, 0.01, 1.25
    start = clock.now
    clock.now += 0.5  # handing over
    meter.recorded(one, 8, start)
    (told,) = cadence.told
    # 8.5 s of wall time: 0.5 in the hooks, 0.5 handing over, 4 x 0.01 on every step; 0.25 s in the writer's thread
    assert told == pytest.approx({"steps": 4, "seconds": 7.46, "cost": 1.25, "every_step": 0.01})


def test_each_optimizer_s_steps_are_counted_for_itself(clock: Clock, unchecked_meter: Callable[..., Meter]) -> None:
    a, b, cadence = lane(1), lane(2), Told()
    meter = unchecked_meter((a, b), None, cadence)
    for one, index in ((a, 0), (b, 0), (a, 5), (b, 50)):
        clock.now += 1.0
        meter.recorded(one, index, clock.now)
    assert [(told["steps"], told["seconds"]) for told in cadence.told] == [(5, 2.0), (50, 2.0)]


def test_a_rank_that_does_not_write_spends_nothing_on_writing(
    clock: Clock, unchecked_meter: Callable[..., Meter]
) -> None:
    meter = unchecked_meter((lane(),), None, Told())
    assert meter.spent() == 0.0
    assert meter.wall() == 1e-9  # never divides by zero
