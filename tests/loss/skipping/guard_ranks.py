"""Two gloo processes whose gradients differ: what each rank's guard decides.

`python -m tests.loss.skipping.guard_ranks FOLDER` writes `FOLDER/<rank>.pt`, a dict of plain tensors and counts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.gloo import fork
from tests.loss.skipping.runs import network
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

from truestep.core._sharding import local
from truestep.loss import guard

WORLD = 2
RULES = {
    "SGD": lambda params: SGD(params, 0.1, momentum=0.9),
    "AdamW, fused": lambda params: AdamW(params, 0.1, fused=True),
}
# What is done to each rank's part of the gradient, step by step, and what both must say of it.
STEPS = (("", ""), ("", "nan"), ("inf", ""), ("zero", ""), ("", "zero"), ("zero", "zero"), ("zero", "nan"), ("", ""))
EXPECTED = (None, "not finite", "not finite", None, None, "zero", "not finite", None)


def spoil(model: nn.Module, kind: str) -> None:
    """Change this rank's part of the gradients."""
    for p in model.parameters():
        if p.grad is not None and kind:
            local(p.grad).mul_(0.0 if kind == "zero" else float(kind))


def steps_of(model: nn.Module, optimizer: Optimizer, rank: int, group: Any = None) -> dict[str, Any]:
    """The reason of each step, and whether this rank's weights stood still."""
    skips = guard(optimizer, group=group)
    reasons: list[Any] = []
    still: list[bool] = []
    for kinds in STEPS:
        optimizer.zero_grad()
        model(torch.ones(3, 5)).square().mean().backward()
        spoil(model, kinds[rank])
        before = [local(p).clone() for p in model.parameters()]
        optimizer.step()
        still.append(all(torch.equal(local(p), w) for p, w in zip(model.parameters(), before, strict=True)))
        reasons.append(skips.last)
    return {"reasons": reasons, "still": still, "counts": skips.reasons}


def without_gradients(rank: int) -> dict[str, Any]:
    """Rank 1 has no gradient at all."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = SGD([weight], 0.1)
    skips = guard(optimizer, group=dist.group.WORLD)
    reasons: list[Any] = []
    for number in (1.0, torch.nan, 0.0, None):
        weight.grad = None if rank or number is None else torch.full((2,), number)
        optimizer.step()
        reasons.append(skips.last)
    return {"reasons": reasons}


def seen(rank: int) -> dict[str, Any]:
    """All runs of a rank."""
    mesh = init_device_mesh("cpu", (WORLD,))
    runs: dict[str, Any] = {"without gradients": without_gradients(rank)}
    for name, rule in RULES.items():
        torch.manual_seed(0)
        sharded: Any = network()
        fully_shard(sharded[0], mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        runs[f"sharded, {name}"] = steps_of(sharded, rule(sharded.parameters()), rank)
        torch.manual_seed(0)
        alone = network()
        runs[f"group, {name}"] = steps_of(alone, rule(alone.parameters()), rank, dist.group.WORLD)
    torch.manual_seed(0)
    replica = DistributedDataParallel(network())
    runs["replica"] = replicated(replica, rank)
    return runs


def replicated(replica: nn.Module, rank: int) -> dict[str, Any]:
    """DDP spreads one rank's nan to all before anybody judges."""
    optimizer = SGD(replica.parameters(), 0.1)
    skips = guard(optimizer)
    reasons: list[Any] = []
    for factor in (1.0, torch.nan if rank else 1.0, 1.0):
        optimizer.zero_grad()
        (replica(torch.ones(3, 5)).square().mean() * factor).backward()
        optimizer.step()
        reasons.append(skips.last)
    return {"reasons": reasons, "weights": parameters(replica)}


def parameters(model: nn.Module) -> Tensor:
    """All weights, flat."""
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def see(rank: int, _folder: Path) -> dict[Any, Any]:
    """One rank's life."""
    return seen(rank)


if __name__ == "__main__":
    sys.exit(fork(see, WORLD, Path(sys.argv[1])))
