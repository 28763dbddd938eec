"""Two and three gloo processes with uneven shares of a window: the gradient that each rank steps with.

`python -m tests.loss.ranks FOLDER WORLD` writes `FOLDER/<rank>.pt`, a dict of plain tensors; the tests compare them.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.gloo import fork
from tests.loss.windows import Batch, batch, flat, net
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from truestep.loss import Tally

ITEMS = 24
# Micro-batches of each rank: uneven in number of items, and one rank's second micro-batch keeps no target at all.
SHARES = {2: ((3, 1), (15, 5)), 3: ((2, 1), (4, 11), (1, 5))}
SCALES = ("mean", "ref", "unit", "sqrt", "ngd")
PERS = ("item", "token", "weight")
WINDOWS = 2


def window(world: int, seed: int) -> Batch:
    """The union batch of all ranks; the second micro-batch of the first rank is ignored as a whole."""
    whole = batch(ITEMS, seed=seed, dtype=torch.float64)
    whole.mask[SHARES[world][0][0] : sum(SHARES[world][0])] = False
    return whole


def shares(world: int, rank: int, seed: int) -> list[Batch]:
    """The micro-batches of one rank."""
    sizes = [size for share in SHARES[world] for size in share]
    return window(world, seed).split(sizes)[2 * rank : 2 * rank + 2]


def gradients(model: nn.Module) -> Tensor:
    """All gradients as one vector, of DTensors the whole."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return flat(tuple(g.full_tensor() if isinstance(g, DTensor) else g for g in grads))


def run(way: str, per: Any, scale: Any, world: int, rank: int, *, known: bool = False) -> Tensor:
    """The gradients of two windows under DDP, DDP with no_sync, FSDP2, or added by hand."""
    model: Any = net(torch.float64)
    if way == "fsdp":
        fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    elif way != "sum":
        model = DistributedDataParallel(model)
    tally = Tally(per, scale, reduced="sum" if way == "sum" else "mean")
    found: list[Tensor] = []
    for seed in range(WINDOWS):
        model.zero_grad()
        whole = window(world, seed)
        if known:
            tally.begin(float(whole.mask.sum()))
        parts = shares(world, rank, seed)
        for i, part in enumerate(parts):
            waiting = way == "no_sync" and i < len(parts) - 1
            with model.no_sync() if waiting else nullcontext():
                tally.backward(part.losses(model), part.mask, part.weight)
        if way == "sum":
            for p in model.parameters():
                dist.all_reduce(p.grad)
        tally.finish(model.parameters())
        found.append(gradients(model))
    return torch.stack(found)


def unreduced(world: int, rank: int) -> Tensor:
    """The first window's gradients, left where they are and added up at the end."""
    model, tally = net(torch.float64), Tally("token", "unit", reduced="none")
    for part in shares(world, rank, 0):
        tally.backward(part.losses(model), part.mask, part.weight)
    tally.finish(model.parameters())
    total = gradients(model)
    dist.all_reduce(total)
    return total


def refused() -> str:
    """What a rank is told that wants a norm no rank knows."""
    tally = Tally(scale="ngd", reduced="none")
    leaf = torch.ones(2, requires_grad=True)
    tally.backward(leaf * 2)
    try:
        tally.finish([leaf])
    except ValueError as error:
        return str(error)
    return ""


def idle(rank: int) -> Tensor:
    """Rank 0 has no micro-batch: the sums of the others reach it, and nobody waits."""
    tally, leaf = Tally(reduced="sum"), torch.ones(2, requires_grad=True)
    if rank:
        tally.backward(leaf * torch.tensor([1.0, 3.0]))
    record = tally.finish([leaf])
    return torch.stack([record.loss, record.weight])


def see(rank: int, _folder: Path) -> dict[str, Any]:
    """One rank's life."""
    world = dist.get_world_size()
    found: dict[str, Any] = {}
    for way, per, scale in product(("ddp", "no_sync", "fsdp", "sum"), PERS, SCALES):
        found[f"{way} {per} {scale}"] = run(way, per, scale, world, rank)
    found["known"] = run("no_sync", "token", "mean", world, rank, known=True)
    found |= {"unreduced": unreduced(world, rank), "refused": refused(), "idle": idle(rank)}
    return found


if __name__ == "__main__":
    sys.exit(fork(see, int(sys.argv[2]), Path(sys.argv[1])))
