"""L(0): where each task's loss began, its unit in the ratio L(t)/L(0)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from truestep.multitask._kept import Kept
from truestep.multitask._rule import PerTask, only


class InitialLosses(Kept):
    """L(0) of each task: given, or the mean of its own first positive losses.

    A task that appears late begins late. A loss of zero has no ratio and is left out.

    Args:
        tasks: Names.
        given: L(0) by task, the theoretical start log C of a cross-entropy, say; for some tasks or all.
        batches: Over how many batches the others are averaged.

    Raises:
        ValueError: A given loss is not positive and finite, or of no task; `batches` is not a positive int.
    """

    total: Tensor
    count: Tensor

    def __init__(self, tasks: tuple[str, ...], given: Mapping[str, int | float] | None, batches: int) -> None:
        super().__init__()
        given = given or {}
        for task, loss in given.items():
            if task not in tasks or not (math.isfinite(loss) and loss > 0):
                msg = (
                    f"`initial` must give a positive finite loss of a task ({', '.join(tasks)}); found {task!r}: {loss}"
                )
                raise ValueError(msg)
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"`initial_batches` must be a positive int; found {batches!r}"
            raise ValueError(msg)
        self.batches = batches
        self._looked_at, self._complete = (0, -1), False
        start = [given.get(task, 0.0) for task in tasks]
        self.register_buffer("total", torch.tensor(start, dtype=torch.float64) * batches)
        self.register_buffer("count", torch.tensor([batches if x else 0 for x in start], dtype=torch.float64))

    def after(self, losses: PerTask, active: Bool[Tensor, " tasks"]) -> tuple[PerTask, PerTask]:
        """Total and count with one more batch."""
        if self._is_complete():
            return self.total, self.count
        wanted = active & (losses > 0) & (self.count < self.batches)
        return self.total + only(wanted, losses), self.count + wanted

    def keep(self, total: PerTask, count: PerTask) -> None:
        """Take over what `after` gave."""
        if total is not self.total:
            self.total.copy_(total)
            self.count.copy_(count)

    def _is_complete(self) -> bool:
        """Whether every task has its L(0); looked at on the CPU alone, once for each change of the counts."""
        if self.count.device.type != "cpu":
            return False
        now = id(self.count), self.count._version
        if now != self._looked_at:
            self._looked_at, self._complete = now, bool((self.count >= self.batches).all())
        return self._complete
