"""Lengths of the steps of a stack, replica by replica: `StepMatched`'s rule where each weight has a row a replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare.step_matched import Extent, extent, matching_factor, step_length
from truestep.compare.step_matched._blocks import Scope
from truestep.compare.step_matched._extent import real
from truestep.compare.step_matched._factor import Norm
from truestep.compare.step_matched._write import write_

_FLOOR = 0.1  # of the root mean square of a replica's weights, as in StepMatched


class StackLengths:
    """Writes the steps of stacked weights at a wanted length.

    Args:
        params: The weights, `[replicas, *shape]` each.
        groups: Number of each weight's parameter group.
        norm: What is called a length.
        scope: What has it, in each replica.

    Example:
        >>> before, w = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> StackLengths([w], [0], "l2", "global").match_([before], torch.tensor([1.0, 6.0], dtype=torch.float64))
        >>> w
        tensor([[0.6000, 0.8000],
                [0.0000, 6.0000]])
    """

    def __init__(self, params: Sequence[Tensor], groups: Sequence[int], norm: Norm, scope: Scope) -> None:
        self._params = params
        self._norm: Norm = norm
        self._units = [p.shape[1] if scope == "unit" and p.dim() > 2 else 1 for p in params]
        self._blocks = _blocks(scope, groups)
        self._floor = _floor(params)

    def extents(self, before: Sequence[Tensor]) -> list[Extent]:
        """Of each block, from `before` to where the weights are: a value for each replica (or each of its units)."""
        rows = [
            extent(_rows(w, units), _rows(p, units), units=True)
            for w, p, units in zip(before, self._params, self._units, strict=True)
        ]
        return [self._floored(_summed([rows[i] for i in block])) for block in self._blocks]

    def lengths(self, extents: Sequence[Extent], factor: Float64[Tensor, " replicas"]) -> list[Tensor]:
        """Of each block, had its step been so many times as long."""
        return [step_length(_times(moved, self._to_rows(factor, moved)), self._norm) for moved in extents]

    def match_(self, before: Sequence[Tensor], wanted: Sequence[Tensor] | Float64[Tensor, " replicas"]) -> None:
        """Give the step from `before` the wanted length: one for each replica, or for each block by its rows."""
        extents = self.extents(before)
        if isinstance(wanted, Tensor):
            wanted = [self._to_rows(wanted, moved) for moved in extents]
        for block, moved, length in zip(self._blocks, extents, wanted, strict=True):
            factor = matching_factor(moved, self._norm, length)
            for i in block:
                write_(_rows(self._params[i].detach(), self._units[i]), _rows(before[i], self._units[i]), factor)

    def _to_rows(self, values: Tensor, moved: Extent) -> Tensor:
        return values.repeat_interleave(len(moved.uu) // len(values))

    def _floored(self, moved: Extent) -> Extent:
        """For "relative": no block counts as smaller than the floor of its replica."""
        if self._norm != "relative":
            return moved
        return replace(moved, ww=torch.maximum(moved.ww, self._to_rows(self._floor, moved).square() * moved.count))


def _blocks(scope: Scope, groups: Sequence[int]) -> list[list[int]]:
    """Which weights make up a block."""
    if scope == "global":
        return [[*range(len(groups))]]
    if scope == "group":
        return [[i for i, own in enumerate(groups) if own == group] for group in dict.fromkeys(groups)]
    return [[i] for i in range(len(groups))]


def _rows(x: Tensor, units: int) -> Tensor:
    """A replica's weight, or a unit of it, as one row."""
    return x.view(len(x) * units, -1)


def _summed(rows: Sequence[Extent]) -> Extent:
    ww, wu, uu, count = (
        torch.stack([getattr(row, name) for row in rows]).sum(0) for name in ("ww", "wu", "uu", "count")
    )
    return Extent(ww, wu, uu, torch.stack([row.largest for row in rows]).amax(0), count)


def _times(moved: Extent, factor: Tensor) -> Extent:
    """The same step, so many times as long."""
    return Extent(moved.ww, moved.wu * factor, moved.uu * factor.square(), moved.largest * factor, moved.count)


@torch.no_grad()
def _floor(params: Sequence[Tensor]) -> Float64[Tensor, " replicas"]:
    flat = torch.cat([real(p.detach()).reshape(len(p), -1).double() for p in params], 1)
    root = flat.square().mean(1).sqrt()
    return _FLOOR * torch.where(root == 0, 1.0, root)
