"""Four gloo processes on one machine: what each rank of a sharded or replicated run records.

`python -m tests.core.ranks FOLDER` writes `FOLDER/<rank>.pt`, a dict of plain tensors; the tests compare them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.cases import RECORDS
from tests.gloo import fork
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

from truestep.core import Recorder, Step

WORLD, STEPS, BATCH = 4, 3, 8
UNITS = ("0.weight", "2.weight")
RULES: dict[str, Callable[[Any], Optimizer]] = {
    "AdamW": lambda params: AdamW(params, lr=1e-2, weight_decay=0.1),
    "nesterov": lambda params: SGD(params, lr=0.1, momentum=0.9, nesterov=True, foreach=True),  # overwrites .grad
}


def rows_of(rank: int) -> Tensor:
    """The rows on one rank, none on the first."""
    return torch.randn(2 * rank, 3, 4, generator=torch.Generator().manual_seed(rank))


def build() -> nn.Sequential:
    """Five rows do not divide by two or four; one row leaves every other rank empty."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def train(model: nn.Module, rule: str, *, units: bool, part: int = 0, parts: int = 1) -> dict[str, Any]:
    """Train on one part of every batch, and return the names and columns of all steps."""
    steps: list[Step] = []
    optimizer = RULES[rule](model.parameters())
    inner = getattr(model, "module", model)
    recorder = Recorder(dict(inner.named_parameters()), optimizer, steps.append, units=UNITS if units else ())
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(BATCH, 6, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        model(x.chunk(parts)[part]).square().mean().backward()
        optimizer.step()
    recorder.close()
    return {"names": list(steps[-1].names), "columns": torch.stack([step.took.columns() for step in steps])}


def records(rank: int) -> dict[int, Any]:
    """Totals of all records over the first 2, 3 and 4 ranks."""
    totals: dict[int, Any] = {}
    for world in (2, 3, WORLD):
        group = dist.new_group(list(range(world))) if world < WORLD else None
        if rank >= world:
            continue
        made = {name: build_record(rows_of(rank)).all_reduce(group) for name, build_record in RECORDS.items()}
        totals[world] = {name: {f.name: getattr(x, f.name) for f in fields(x)} for name, x in made.items()}
    return totals


def sharded(rank: int) -> dict[str, Any]:
    """Runs under FSDP2 on two and four ranks, HSDP on two by two, and DDP."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    line = init_device_mesh("cpu", (WORLD,))
    runs: dict[str, Any] = {}
    for rule in RULES:
        for units in (False, True):
            for name, over, parts in (("fsdp of 2", mesh["shard"], 2), ("fsdp of 4", line, 4), ("hsdp", mesh, 4)):
                model = build()
                fully_shard(model[0], mesh=over)
                fully_shard(model, mesh=over)
                runs[f"{name}, {rule}, {units}"] = train(model, rule, units=units, part=rank % parts, parts=parts)
            replica = DistributedDataParallel(build())
            runs[f"ddp, {rule}, {units}"] = train(replica, rule, units=units, part=rank, parts=WORLD)
    return runs


def placed() -> dict[str, Tensor]:
    """One step of a matrix cut by columns, by rows and not at all, with and without units."""
    mesh = init_device_mesh("cpu", (WORLD,))
    columns: dict[str, Tensor] = {}
    for name, placement in (("columns", Shard(1)), ("rows", Shard(0)), ("whole", Replicate())):
        for units in (False, True):
            steps: list[Step] = []
            w, g = matrix()
            weight = nn.Parameter(distribute_tensor(w, mesh, [placement]))
            optimizer = SGD([weight], lr=0.1)
            Recorder({"w": weight}, optimizer, steps.append, units=("w",) if units else ())
            weight.grad = distribute_tensor(g, mesh, [placement])
            optimizer.step()
            columns[f"{name}, {units}"] = steps[0].took.columns()
    return columns


def matrix() -> tuple[Tensor, Tensor]:
    """A weight and its gradient."""
    generator = torch.Generator().manual_seed(2)
    w, g = torch.randn(2, 5, 7, dtype=torch.float64, generator=generator)
    return w, g


def see(rank: int, _folder: Path) -> dict[Any, Any]:
    """One rank's life."""
    return {"records": records(rank), "runs": sharded(rank), "placed": placed()}


if __name__ == "__main__":
    sys.exit(fork(see, WORLD, Path(sys.argv[1])))
