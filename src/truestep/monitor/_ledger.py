"""Which step a logged loss belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import nan
from typing import Any

import torch
from torch import Tensor

Number = float | int | Tensor
Row = tuple[int, int, float, Number | None, Number | None, Any]  # optimizer, step, time, loss, samples, skipped


class Ledger:
    """Attributes `log` calls to steps: to the step that ends next, or to the one just finished.

    Calls and steps come in rounds. If the run's first call comes before any step, the calls of a round belong to the
    steps that follow them; if it comes after one, to the steps just finished. Within a round every optimizer takes
    the loss once: a pair of optimizers that step together both get it, a GAN's get each their own. Several calls of a
    round are added up, weighted by their samples (by 1 where none are given).

    Args:
        emit: Takes the finished row of a step.
        unnoted: Last steps that `end` was not told of: as long as nobody logs there is nothing to tell.
    """

    def __init__(self, emit: Callable[[Row], None], unnoted: Callable[[], Iterable[Row]] = tuple) -> None:
        self.log_first: bool | None = None  # before the first call there is no telling
        self.latest: Number | None = None  # of the losses that found their step
        self._emit, self._unnoted = emit, unnoted
        self._calls: list[tuple[Number | None, Number | None]] = []
        self._open: dict[int, Row] = {}  # finished steps that wait for their loss
        self._took: set[int] = set()  # optimizers that had their loss in this round
        self._last_was_log = False

    def log(self, loss: Number | None, samples: Number | None) -> None:
        """One call; both may be tensors on any device, nothing is read from them here."""
        if self.log_first is None:
            self._open |= {row[0]: row for row in self._unnoted()}
            self.log_first = not self._open
        if self.log_first and not self._last_was_log:
            self._calls, self._took = [], set()
        self._calls.append((loss, samples))
        self._last_was_log = True

    def end(self, optimizer: int, step: int, now: float, skipped: Any) -> None:
        """The end of one step."""
        if self.log_first:
            loss = samples = None
            if self._calls and optimizer not in self._took:
                self._took.add(optimizer)
                loss, samples = weighted(self._calls)
                self.latest = loss if loss is not None else self.latest
            self._emit((optimizer, step, now, loss, samples, skipped))
        else:
            row = (optimizer, step, now, None, None, skipped)
            if self.log_first is None:
                self._emit(row)  # replaced should the first call of all come now
            elif self._last_was_log:
                self.settle()
            elif optimizer in self._open:
                self._emit(self._open[optimizer])
            self._open[optimizer] = row
        self._last_was_log = False

    def settle(self) -> None:
        """Finish every step that still waits for its loss."""
        self.show()
        self._open.clear()
        if not self.log_first:
            self._calls = []

    def show(self) -> None:
        """Emit the steps that still wait for their loss as they stand; a loss that comes later replaces their rows."""
        if self.log_first is not False:
            for row in self._unnoted():
                self._emit(row)
            return
        loss, samples = weighted(self._calls) if self._calls else (None, None)
        self.latest = loss if loss is not None else self.latest
        for optimizer, step, now, _, _, skipped in self._open.values():
            self._emit((optimizer, step, now, loss, samples, skipped))


def weighted(calls: list[tuple[Number | None, Number | None]]) -> tuple[Number | None, Number | None]:
    """Mean loss weighted by samples, and the samples added up; None for what no call gave.

    The mean over no samples is nan, and counts for nothing beside others.

    Example:
        >>> weighted([(1.0, 30), (3.0, 10)])
        (1.5, 40)
    """
    if len(calls) == 1:
        return calls[0]
    counts = [samples for _, samples in calls if samples is not None]
    losses = [(loss, 1 if samples is None else samples) for loss, samples in calls if loss is not None]
    weight = sum(samples for _, samples in losses)
    total = sum(_total(loss, samples) for loss, samples in losses)
    mean = total / weight if isinstance(weight, Tensor) or weight else nan
    return (mean if losses else None), (sum(counts) if counts else None)


def _total(loss: Number, samples: Number) -> Number:
    """Sum that `loss` is the mean of; nothing is read from a GPU here."""
    if isinstance(samples, Tensor):
        return torch.where(samples == 0, 0.0, loss * samples)
    return loss * samples if samples else 0.0
