"""A running mean of one reading a task, which a task enters with its first value."""

from __future__ import annotations

import torch
from jaxtyping import Bool

from truestep.multitask._rule import PerTask, kept

Number = int | float


def smoothed(active: Bool[torch.Tensor, " tasks"], new: PerTask, old: PerTask, smoothing: Number) -> PerTask:
    r"""Exponential moving average :math:`\beta\,\text{old} + (1 - \beta)\,\text{new}` of each active task.

    A task whose old value is nan takes the new one as it is; tasks not active keep the old one.

    Args:
        active: Tasks whose new value counts.
        new: What was read now.
        old: The average so far, nan before a task's first value.
        smoothing: :math:`\beta`, from 0 (no memory) to below 1.
    """
    mixed = torch.where(old.isnan(), new, torch.lerp(new, old, smoothing))
    return kept(active, mixed, old)


def unknown(tasks: tuple[str, ...]) -> PerTask:
    """One nan a task: the state before a first value."""
    return torch.full((len(tasks),), torch.nan, dtype=torch.float64)


def check_smoothing(smoothing: Number) -> None:
    """Raise a ValueError where `smoothing` is not in [0, 1)."""
    if not 0 <= smoothing < 1:
        msg = f"`smoothing` must be at least 0 and below 1: the share of the average kept; found {smoothing!r}"
        raise ValueError(msg)
