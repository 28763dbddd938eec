"""How often to record, so that watching stays under its share of the wall time."""

from __future__ import annotations

from collections import deque
from typing import Literal

LARGEST = 1 << 20  # steps; a run whose steps are that cheap is recorded a handful of times


class Cadence:
    """Period between recorded steps: fixed, or chosen from what recording was measured to cost.

    The period is a power of two and recorded are its multiples, so that runs with different periods share steps and
    a full record can be thinned by halves. From 1 it at most doubles from one recorded step to the next: the first
    steps, where most happens, are recorded at 0, 1, 2, 4, 8, ... until the period is reached.

    Args:
        every: "auto", or the period itself.
        budget: Share of the wall time that watching may cost, 0.01 for one per cent.

    Raises:
        ValueError: If `every` is neither "auto" nor a positive integer, or `budget` is not in (0, 1].

    Example:
        >>> cadence = Cadence("auto", budget=0.01)
        >>> for _ in range(8):  # a step takes 0.1 s, recording one takes 0.02 s more: once in 20 steps is affordable
        ...     cadence.recorded(steps=cadence.period, seconds=0.1 * cadence.period, cost=0.02, every_step=0.0)
        >>> cadence.period
        32
    """

    def __init__(self, every: int | Literal["auto"] = "auto", budget: float = 0.01) -> None:
        if every != "auto" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f'`every` must be "auto" or a positive number of steps, found {every!r}'
            raise ValueError(msg)
        if not 0 < budget <= 1:
            msg = f"`budget` is a share of the wall time and must be in (0, 1], found {budget!r}; 0.01 is one per cent"
            raise ValueError(msg)
        self.auto = every == "auto"
        self.period = 1 if every == "auto" else every
        self._budget = budget
        self._least = 1
        self._costs: deque[float] = deque(maxlen=5)
        self._steps: deque[float] = deque(maxlen=5)

    def due(self, index: int) -> bool:
        """Whether to record step number `index`."""
        return index % self.period == 0

    def recorded(self, *, steps: int, seconds: float, cost: float, every_step: float) -> None:
        """Choose the next period after a recorded step.

        Args:
            steps: Steps since the one recorded before.
            seconds: Wall time of those steps without what watching cost.
            cost: Seconds that recording this step cost.
            every_step: Seconds that watching costs on a step that is not recorded.
        """
        if not self.auto:
            return
        from statistics import median  # takes 5 ms to import, with decimal and fractions

        self._costs.append(cost)
        self._steps.append(seconds / max(steps, 1))
        room = self._budget * median(self._steps) - every_step  # seconds a step that recording may cost on average
        affordable = median(self._costs) / room if room > 0 else float(LARGEST)
        self.period = max(_next_period(self.period, affordable), self._least)

    def at_least(self, period: int) -> None:
        """Never record more often than that from now on (a full record was thinned)."""
        self._least = period
        while self.period < period:
            self.period *= 2


def _next_period(period: int, affordable: float) -> int:
    """Twice as long where `affordable` asks for it, half as long where it leaves room twice over, else as it is."""
    if affordable > period:
        return min(period * 2, LARGEST)
    if affordable < 0.4 * period:  # not at 0.5: noise would make it swing
        return max(period // 2, 1)
    return period
