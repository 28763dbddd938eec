"""Models that average their gradients over ranks, as DistributedDataParallel and `fully_shard` do."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from truestep.core._additive import reduced
from truestep.core._sharding import is_distributed

Groups = tuple[dist.ProcessGroup, ...]


def averaging_groups(model: nn.Module) -> Groups:
    """Process groups whose ranks' gradients the model averages; none for a plain module.

    Tensor-parallel ranks are among them: they see the same losses, so that what they add cancels in a ratio.

    Example:
        >>> averaging_groups(nn.Linear(2, 1))
        ()
    """
    if isinstance(model, DistributedDataParallel):
        group: Any = model.process_group
        return (group,)
    mesh: Any = next((getattr(p, "device_mesh", None) for p in model.parameters() if is_distributed(p)), None)
    return () if mesh is None else tuple(mesh.get_group(dim) for dim in range(mesh.ndim))


def num_ranks(groups: Groups) -> int:
    """How many ranks there are in all."""
    ranks = 1
    for group in groups:
        ranks *= group.size()
    return ranks


def total_over(groups: Groups, x: Float64[Tensor, ""]) -> Float64[Tensor, ""]:
    """`x` summed over all ranks; every rank must call it."""
    flat = x.reshape(1).clone()
    for group in groups:
        flat = reduced(flat, group)
    return flat.reshape(())
