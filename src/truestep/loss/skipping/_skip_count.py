"""Counts of skipped steps by reason, left on the device until somebody asks."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from truestep.loss.skipping._verdict import REASONS


class SkipCount:
    """How many steps were skipped and why, how many of the latest in a row, and why the latest one was.

    `add` takes flags that were read on the host, `add_lazily` flags that stay on their device. Reading `counts`,
    `streak` or `last` after `add_lazily` waits for the device.

    Args:
        patience: Steps skipped in a row after which `is_stuck` says so.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._counts, self._streak, self._last = [0, 0], 0, [0, 0]
        self._lazy: tuple[Tensor, Tensor, Tensor] | None = None  # the same three, on the device
        self._posted: Tensor | None = None  # the device's streak as of some steps ago, in the host's memory

    def add(self, flags: list[int]) -> None:
        """Count a step whose flags are known."""
        self._fold()
        self._counts = [count + flag for count, flag in zip(self._counts, flags, strict=True)]
        self._streak = self._streak + 1 if any(flags) else 0
        self._last = flags

    def add_lazily(self, flags: Int64[Tensor, "2"]) -> None:
        """Count a step whose flags nobody on the host has seen."""
        if self._lazy is None:
            counts, streak = _filled(self._counts, flags.device), _filled([self._streak], flags.device)
        else:
            counts, streak = (number.to(flags.device) for number in self._lazy[:2])
        self._lazy = counts.add_(flags), streak.add_(1).mul_(flags.sum()), flags.clone()
        self._post(streak)

    @property
    def is_stuck(self) -> bool:
        """Whether `patience` steps in a row were skipped; never waits, so a GPU's are known some steps late."""
        if self._lazy is None:
            return self._streak >= self._patience
        if self._posted is None:
            return False
        return ctypes.c_int64.from_address(self._posted.data_ptr()).value >= self._patience

    @property
    def reasons(self) -> dict[str, int]:
        """Skipped steps by reason."""
        self._fold()
        return dict(zip(REASONS, self._counts, strict=True))

    @property
    def last(self) -> str | None:
        """Why the latest step was skipped; None where it was taken."""
        self._fold()
        return next((reason for reason, flag in zip(REASONS, self._last, strict=True) if flag), None)

    def state_dict(self) -> dict[str, Any]:
        """All counts as plain numbers."""
        return {"reasons": self.reasons, "streak": self._streak, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the counts of `state_dict`."""
        self._lazy = self._posted = None
        self._counts = [int(state["reasons"][reason]) for reason in REASONS]
        self._streak, self._last = int(state["streak"]), [int(state["last"] == reason) for reason in REASONS]

    def _fold(self) -> None:
        """Take the device's counts over."""
        if self._lazy is not None:
            counts, streak, last = self._lazy
            *self._counts, self._streak = torch.cat([counts, streak]).tolist()
            self._last = last.tolist()
            self._lazy = self._posted = None

    def _post(self, streak: Tensor) -> None:
        """Send the streak to the host without waiting; it is read from there once it has come."""
        if streak.device.type not in ("cpu", "cuda"):  # elsewhere a copy may wait
            return
        if self._posted is None:
            self._posted = torch.zeros(1, dtype=torch.int64, pin_memory=streak.device.type == "cuda")
        self._posted.copy_(streak, non_blocking=True)


def _filled(numbers: list[int], device: torch.device) -> Tensor:
    """The numbers on the device; unlike a copy from the host's memory, filling does not wait."""
    return torch.stack([torch.full((), number, dtype=torch.int64, device=device) for number in numbers])
