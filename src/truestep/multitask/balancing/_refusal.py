"""Losses that cannot be balanced, refused with the task's name; on a GPU without waiting for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from truestep.multitask._rule import PerTask


class Refusal:
    """Raises where a loss is bad: at once on the CPU; on a GPU as soon as its flags have arrived, a step or so later.

    Until then the balancer treats a bad task as absent.
    """

    def __init__(self, tasks: Sequence[str], rule: str) -> None:
        self._tasks, self._rule = tasks, rule
        self._sent: tuple[Tensor, torch.cuda.Event] | None = None

    def check(self, losses: PerTask, good: Bool[Tensor, " tasks"], count: PerTask) -> None:
        """Raise a ValueError that names a task whose loss is there (`count`) and not good."""
        if losses.device.type == "cpu" and bool(good.all()):
            return
        bad = ~good & (count > 0)
        told = torch.stack([bad.to(losses.dtype), losses])
        if losses.device.type == "cuda":
            self.arrived()
            waiting = torch.empty(told.shape, dtype=told.dtype, pin_memory=True)
            waiting.copy_(told, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._sent = waiting, event
        elif bool(bad.any()):
            self._refuse(told)

    def arrived(self) -> None:
        """Look at the flags of an earlier step, if the GPU has sent them."""
        if self._sent is not None and self._sent[1].query():
            told, self._sent = self._sent[0], None
            if bool(told[0].any()):
                self._refuse(told)

    def _refuse(self, told: Tensor) -> None:
        i = int(told[0].argmax())
        self.refuse(self._tasks[i], told[1, i].item())

    def refuse(self, task: str, value: float) -> None:
        """Raise the ValueError that says what is wrong with this loss."""
        negative = f"; {self._rule} divides by it: give a loss that is not negative" if -math.inf < value < 0 else ""
        msg = f"the loss of task {task!r} is {value:g}{negative or ', not a number to balance'}"
        raise ValueError(msg)

    def __getstate__(self) -> tuple[Sequence[str], str]:
        return self._tasks, self._rule

    def __setstate__(self, state: tuple[Sequence[str], str]) -> None:
        self._tasks, self._rule = state
        self._sent = None
