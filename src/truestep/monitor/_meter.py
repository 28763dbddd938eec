"""What watching costs, measured on itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

from truestep.monitor._budget import Cadence
from truestep.monitor._lane import Lane
from truestep.monitor.sinks import Store


class Meter:
    """Seconds that watching cost: recorded steps, the every-step path (sampled), and the writing of the record.

    Args:
        lanes: The watched optimizers.
        store: The record, whose thread counts its own seconds; None on a rank that does not write.
        cadence: Chooses the period from what is measured here.
    """

    def __init__(self, lanes: Sequence[Lane], store: Store | None, cadence: Cadence) -> None:
        self._lanes, self._store, self._cadence = lanes, store, cadence
        self._start = time.perf_counter()
        self._noting = 0.0  # handing recorded steps over to the record and the console
        self._before = (0.0, 0.0)  # seconds spent and passed in the processes before a resume
        self._first: dict[int, int] = {}  # the step each optimizer was at then
        self._seen: dict[int, tuple[int, float, float, float]] = {}

    def resume(self, spent: float, wall: float) -> None:
        """Go on from what was spent, and passed, before the run was resumed."""
        self._before = (spent, wall)
        self._first = {lane.number: lane.recorder.index for lane in self._lanes}

    def wall(self) -> float:
        """Seconds since watching began, without those between a stop and a resume."""
        return self._before[1] + max(time.perf_counter() - self._start, 1e-9)

    def spent(self) -> float:
        """Seconds that watching cost so far."""
        return (
            self._before[0]
            + self._hooks()
            + self._writing()
            + sum(lane.recorder.seconds_unrecorded * self._steps(lane) for lane in self._lanes)
        )

    def recorded(self, lane: Lane, index: int, start: float) -> None:
        """Account for a recorded step of `lane` that was handed over from `start` on, and tell the cadence."""
        now = time.perf_counter()
        self._noting += now - start
        hooks, writing = self._hooks(), self._writing()
        if lane.number in self._seen:
            index_then, then, hooks_then, writing_then = self._seen[lane.number]
            steps, cost = index - index_then, hooks - hooks_then
            self._cadence.recorded(
                steps=steps,
                seconds=now - then - cost - steps * lane.recorder.seconds_unrecorded,
                cost=cost + writing - writing_then,
                every_step=lane.recorder.seconds_unrecorded,
            )
        self._seen[lane.number] = (index, now, hooks, writing)

    def _steps(self, lane: Lane) -> int:
        return lane.recorder.index - self._first.get(lane.number, 0)

    def _hooks(self) -> float:
        return self._noting + sum(lane.recorder.seconds for lane in self._lanes)

    def _writing(self) -> float:
        return self._store.seconds if self._store else 0.0
