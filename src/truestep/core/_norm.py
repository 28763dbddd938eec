"""The norm of many tensors as one vector, and the parts of them that this rank may write to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor, _foreach_mul_, _foreach_norm  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

from truestep.core._sharding import add_shards, local, shards


def squared_norm(tensors: Sequence[Tensor]) -> Float64[Tensor, ""]:
    """Sum of the squares of all elements, in float64, on the first tensor's device; nothing is copied to the host.

    Takes any mix of dtypes, devices, sparse tensors and DTensors; of these the parts of all ranks that shard them are
    added, in one collective for each way of sharding, which every rank must join.

    Example:
        >>> squared_norm([torch.tensor([3.0]), torch.tensor([[4.0]], dtype=torch.float16)])
        tensor(25., dtype=torch.float64)
    """
    return squared_norms(tensors).sum() if tensors else torch.zeros((), dtype=torch.float64)


def squared_norms(tensors: Sequence[Tensor]) -> Float64[Tensor, " tensors"]:
    """Squared norm of each of at least one tensor, as `squared_norm` takes them.

    Example:
        >>> squared_norms([torch.tensor([3.0, 4.0]), torch.tensor([1e30])])
        tensor([2.5000e+01, 1.0000e+60], dtype=torch.float64)
    """
    cuts = [shards(x) for x in tensors]
    if not any(cuts) and len({x.device for x in tensors}) == 1:
        parts = [_values(_coalesced(local(x))) for x in tensors]
        return torch.stack(_foreach_norm(parts, 2, dtype=torch.float64)).square()
    norms = [part.new_zeros((), dtype=torch.float64) for part in map(local, tensors)]
    for members in _by_device(tensors):
        parts = [_values(_coalesced(local(tensors[i]))) for i in members]
        for i, norm in zip(members, _foreach_norm(parts, 2, dtype=torch.float64), strict=True):
            norms[i] = norm
    rows = add_shards([(norm**2).reshape(1, 1) for norm in norms], cuts)
    return torch.cat([row.to(rows[0].device) for row in rows]).flatten()


def scale_(tensors: Sequence[Tensor], factor: Float64[Tensor, ""]) -> None:
    """Multiply all tensors by one factor in place, in one fused call a device: each is read and written once."""
    for members in _by_device(tensors):
        parts = [_values(local(tensors[i])) for i in members]
        _foreach_mul_(parts, factor.to(parts[0].device))


def _coalesced(x: Tensor) -> Tensor:
    return x.coalesce() if x.layout == torch.sparse_coo else x


def _values(x: Tensor) -> Tensor:
    """The numbers of `x` as real ones, in its own memory."""
    if x.layout == torch.sparse_coo:
        x = x._values()
    return torch.view_as_real(x) if x.is_complex() else x


def _by_device(tensors: Iterable[Tensor]) -> list[list[int]]:
    groups: dict[torch.device, list[int]] = {}
    for i, x in enumerate(tensors):
        groups.setdefault(x.device, []).append(i)
    return list(groups.values())
