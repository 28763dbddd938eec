"""Norms of units or of whole tensors, over the ranks that shard them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core._sharding import Shards, add_shards, is_distributed, local, shards

Per = Literal["unit", "tensor"]
Column = Float64[Tensor, " rows"]  # one number for each unit of this rank's part, or one for all of a tensor


def row_norms(tensors: Sequence[Tensor], per: Per) -> list[Column]:
    """Norm of each unit that this rank holds a part of (or of each tensor), in float64, the parts of all ranks added.

    Shards of whole units, as FSDP2 cuts them, need no word with other ranks; other cuts take one collective for each
    way of cutting, which every rank must join.

    Example:
        >>> weight = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> row_norms([weight], "unit")
        [tensor([5., 2.], dtype=torch.float64)]
    """
    norms = [_local_norms(local(x), per) for x in tensors]
    cuts = [_cuts(x, per) for x in tensors]
    if not any(cuts):
        return norms
    summed = add_shards([norm.square().unsqueeze(1) for norm in norms], cuts)
    return [column.squeeze(1).sqrt() if cut else norm for column, cut, norm in zip(summed, cuts, norms, strict=True)]


def whole_column(column: Column, x: Tensor, per: Per) -> Float64[Tensor, " units"]:
    """The rows of all ranks, where they stand in the whole tensor; a collective where units are spread over ranks."""
    spread = tuple(cut for cut in shards(x) if cut not in _cuts(x, per))
    if per == "tensor" or not spread:
        return column
    whole = column.new_zeros(x.shape[0], 1)
    part_of_column(whole, x, per).copy_(column.unsqueeze(1))
    return add_shards([whole], [spread])[0].squeeze(1)


def part_of_column(whole: Float64[Tensor, "units *rest"], x: Tensor, per: Per) -> Float64[Tensor, "rows *rest"]:
    """The rows of `whole` that belong to this rank's part of `x`, a view."""
    if per == "tensor" or not is_distributed(x):
        return whole
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    placed = x.shape, x.device_mesh, x.placements  # type: ignore[attr-defined]
    _, offset = compute_local_shape_and_global_offset(*placed)
    return whole[offset[0] : offset[0] + local(x).shape[0]]


def _local_norms(x: Tensor, per: Per) -> Column:
    units = x.shape[0] if per == "unit" else 1
    x = torch.view_as_real(x) if x.is_complex() else x
    dims = tuple(range(1, x.dim())) if per == "unit" else None
    return torch.linalg.vector_norm(x, dim=dims, dtype=torch.float64).reshape(units)


def _cuts(x: Tensor, per: Per) -> Shards:
    """The cuts that go through rows: those along the first dimension leave units whole."""
    if per == "tensor":
        return shards(x)
    return tuple((mesh, dim) for mesh, dim in shards(x) if x.placements[dim].dim % x.dim() != 0)  # type: ignore[attr-defined]
