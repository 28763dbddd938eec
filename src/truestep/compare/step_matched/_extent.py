"""What the length of a step is computed from, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float64, Inexact
from torch import Tensor

_SUMS: Final = ("ww", "wu", "uu", "count")


@dataclass(frozen=True, slots=True)
class Extent:
    r"""Sums over the weight :math:`w` before a step and its displacement :math:`u`, one value a block.

    Args:
        ww: :math:`\|w\|^2`.
        wu: :math:`\langle w, u \rangle`.
        uu: :math:`\|u\|^2`.
        largest: :math:`\max_i |u_i|`; of a complex weight, over real and imaginary parts.
        count: Number of entries; a complex one counts as two.
    """

    ww: Float64[Tensor, "*blocks"]
    wu: Float64[Tensor, "*blocks"]
    uu: Float64[Tensor, "*blocks"]
    largest: Float64[Tensor, "*blocks"]
    count: Float64[Tensor, "*blocks"]


def extent(before: Inexact[Tensor, "*shape"], after: Inexact[Tensor, "*shape"], *, units: bool = False) -> Extent:
    """The extent of one tensor's step, in float64 whatever the dtype; nothing waits for the device.

    Args:
        before: Weight before the step.
        after: Weight after it.
        units: One value for each slice along the first dimension; a tensor of fewer than two dimensions is one block.

    Returns:
        An Extent of `[units]`, or of `[1]`.

    Example:
        >>> moved = extent(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[3.0, 4.5], [2.0, 1.0]]), units=True)
        >>> moved.uu.tolist(), moved.wu.tolist()
        ([0.25, 4.0], [2.0, 0.0])
    """
    w, now = real(before.detach()).double(), real(after.detach()).double()
    rows = num_rows(before, units=units)
    w, u = w.reshape(rows, -1), (now - w).reshape(rows, -1)
    count = torch.full((rows,), float(w.shape[1]), dtype=torch.float64, device=w.device)
    return Extent((w * w).sum(1), (w * u).sum(1), (u * u).sum(1), u.abs().amax(1), count)


def joined(extents: Sequence[Extent], sizes: Sequence[int]) -> Extent:
    """Rows of all tensors one behind another, and `sizes` of them at a time seen as one block.

    Example:
        >>> row = extent(torch.zeros(2), torch.tensor([3.0, 4.0]))
        >>> joined([row, row, row], [2, 1]).uu.tolist()
        [50.0, 25.0]
    """
    ww, wu, uu, count = (_blocks([getattr(each, name) for each in extents], sizes) for name in _SUMS)
    return Extent(ww, wu, uu, _blocks([each.largest for each in extents], sizes, largest=True), count)


def _blocks(columns: Sequence[Tensor], sizes: Sequence[int], *, largest: bool = False) -> Float64[Tensor, " blocks"]:
    """Sums, or the largest, of so many rows each; split, not scattered: atomic adds would not come out the same."""
    rows = torch.cat([column.to(columns[0].device) for column in columns])
    if len(sizes) == len(rows):
        return rows
    parts = rows.split(list(sizes))
    return torch.stack([part.amax() if largest else part.sum() for part in parts])


def num_rows(x: Tensor, *, units: bool) -> int:
    """How many blocks `x` is: its slices along the first dimension, or one."""
    return x.shape[0] if units and x.dim() > 1 else 1


def real(x: Tensor) -> Tensor:
    """A view of real numbers."""
    return torch.view_as_real(x) if x.is_complex() else x
