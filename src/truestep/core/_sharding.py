"""What of a tensor lies on this rank, and over which ranks its sums add up."""

from __future__ import annotations

import sys
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core._additive import reduced

Shards = tuple[tuple[Any, int], ...]  # (device mesh, mesh dimension) of each dimension that shards a tensor


def is_distributed(x: Tensor) -> bool:
    """Whether `x` is a DTensor (FSDP2, tensor parallel); imports nothing that is not imported yet."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def local(x: Tensor) -> Tensor:
    """Part of `x` on this rank: the local shard of a DTensor, or `x` itself; never tracked by autograd."""
    x = x.detach()
    return x.to_local() if is_distributed(x) else x  # type: ignore[attr-defined]


def shards(x: Tensor) -> Shards:
    """Mesh dimensions that cut `x`; replicas are left out: summing over them would multiply by their number."""
    if not is_distributed(x):
        return ()
    mesh, placements = x.device_mesh, x.placements  # type: ignore[attr-defined]
    return tuple((mesh, dim) for dim, placement in enumerate(placements) if placement.is_shard())


def at_global_units(columns: Float64[Tensor, "local 6"], x: Tensor, unit_dim: int) -> Float64[Tensor, "units 6"]:
    """Rows of this rank's units put where they stand in the whole tensor, zeros elsewhere."""
    if not is_distributed(x):
        return columns
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, mesh, placements = x.shape, x.device_mesh, x.placements  # type: ignore[attr-defined]
    _, offset = compute_local_shape_and_global_offset(shape, mesh, placements)
    whole = columns.new_zeros(x.shape[unit_dim], columns.shape[-1])
    whole[offset[unit_dim] : offset[unit_dim] + columns.shape[0]] = columns
    return whole


def add_shards(columns: list[Float64[Tensor, "_ sums"]], cuts: list[Shards]) -> list[Float64[Tensor, "_ sums"]]:
    """Each block's rows summed over the ranks that hold a part of it; one collective a way of cutting.

    Every rank must call it with the same blocks in the same order.
    """
    columns = list(columns)
    for cut in dict.fromkeys(cuts):
        if not cut:
            continue
        members = [i for i, other in enumerate(cuts) if other == cut]
        flat = torch.cat([columns[i] for i in members])
        for mesh, dim in cut:
            flat = reduced(flat, mesh.get_group(dim))
        parts = flat.split([columns[i].shape[0] for i in members])
        for i, part in zip(members, parts, strict=True):
            columns[i] = part
    return columns
