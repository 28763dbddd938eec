"""Which length a step is to have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, pi
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.compare.step_matched._replay import Replay

Count = int | Tensor  # of steps so far; a tensor where only the device knows which were skipped
Number = int | float | Tensor
Schedule = Number | Sequence[Number] | Callable[[Any], Number]
Length = Schedule | Optimizer | Replay


def length_at(length: Schedule, step: Count, norm: str) -> float | Float64[Tensor, "*blocks"]:
    """The length wanted of the step of this number, from 0 on: a number for all blocks, or a tensor of one for each.

    A `step` that only the device knows reaches a callable in float64, as exact as a number's arithmetic.

    Raises:
        ValueError: If the host knows that it is no length of this norm, or that the schedule has ended.

    Example:
        >>> length_at([0.5, 0.25], 1, "l2"), length_at(lambda step: 0.1 / (1 + step), 1, "l2")
        (0.25, 0.05)
    """
    if callable(length) and not isinstance(length, Tensor):
        wanted: Any = length(step.double() if isinstance(step, Tensor) else step)
    elif isinstance(length, Sequence):
        wanted = _of_table(length, step)
    else:
        wanted = length
    if isinstance(wanted, Tensor):
        return wanted.detach().double()
    check_length(wanted, norm)
    return float(wanted)


def check_length(length: object, norm: str) -> None:
    """Raise a ValueError where `length` is a number, but no length of this norm."""
    below = pi if norm == "angular" else inf
    if not isinstance(length, Real) or not 0 <= float(length) < below:
        msg = f"`length` must be a number from 0 to below {below:g} for norm={norm!r}, found {length!r:.80}"
        raise ValueError(msg)


def check_shape(lengths: Tensor, num_blocks: int) -> None:
    """Raise a ValueError where a tensor of lengths is neither one for all blocks nor one for each."""
    if lengths.dim() > 1 or lengths.numel() not in (1, num_blocks):
        msg = (
            f"`length` as a tensor must have one value, or one for each of the {num_blocks} blocks of a step, found "
            f"shape {tuple(lengths.shape)}; for one at each step give a list (`.tolist()`)"
        )
        raise ValueError(msg)


def _of_table(table: Sequence[Number], step: Count) -> Number:
    if not isinstance(step, Tensor):
        if step < len(table):
            return table[step]
        msg = f"`length` must have a length for each step, found {len(table)} and a step more; give a longer schedule"
        raise ValueError(msg)
    rows = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in table]).to(step.device, non_blocking=True)
    found = rows.index_select(0, step.clamp(max=len(table) - 1).reshape(1)).squeeze(0)  # rows[step] would wait
    return torch.where(step < len(table), found, torch.nan)
