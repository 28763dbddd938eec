"""Two gloo processes whose replicated and sharded runs are watched.

`python -m tests.monitor.ranks FOLDER` writes `FOLDER/<rank>.pt` and run directories; the tests compare them.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from tests.gloo import fork
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from truestep import Watch, watch
from truestep.core import _measure, _recorder
from truestep.monitor import _watch
from truestep.monitor.sinks import Store

WORLD, STEPS, BATCH = 2, 9, 8


def boom(*_: Any, **__: Any) -> Any:
    """The exception of ours."""
    raise ArithmeticError("boom")


class Balancing:
    """A balancer of two tasks that counts how often it is looked at."""

    def __init__(self) -> None:
        self.reads = 0

    @property
    def report(self) -> SimpleNamespace:
        self.reads += 1
        ones = {"a": 1.0, "b": 1.0}
        factors = {"step_factor": 1.0, "trunk_factor": 1.0, "updates": self.reads}
        return SimpleNamespace(weights=ones, norms=ones, ratios=ones, losses=ones, **factors)


def build() -> nn.Sequential:
    """Two layers, float64; 7 rows do not divide by two ranks."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()


def replicated() -> nn.Module:
    """Every rank holds everything."""
    return DistributedDataParallel(build())


def sharded() -> nn.Module:
    """Every rank holds a part of everything."""
    model = build()
    mesh = init_device_mesh("cpu", (WORLD,))
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(model: nn.Module, rank: int, world: int, **options: Any) -> dict[str, Any]:
    """Nine steps on this rank's part of every batch, and all that can be told of them from here."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    at_step: Callable[[int], contextlib.AbstractContextManager[Any]] = options.pop("at_step", contextlib.nullcontext)
    printed, periods = io.StringIO(), list[int]()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        run: Watch | None = watch(model, optimizer, **options) if options else None
        for step in range(STEPS):
            x = torch.randn(BATCH, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
            loss = model(x.chunk(world)[rank]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            with at_step(step):
                optimizer.step()
            if run:
                run.log(loss=loss, samples=BATCH // world)
                periods.append(run._cadence.period)
        counted = [lane.recorder.index for lane in run._lanes.values()] if run else []
        closed = run is not None and run._closed
        if run:
            run.close()
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return {
        "reads": getattr(options.get("balancer"), "reads", None),
        "periods": periods,
        "counted": counted,
        "closed": closed,
        "printed": printed.getvalue(),
        "warnings": [str(warning.message) for warning in caught],
        "weights": torch.cat([p.detach().flatten() for p in whole]),
    }


def on(rank: int, only: int, step: int, target: Any, name: str) -> dict[str, Any]:
    """Options of `train` that raise in `target.name` on rank `only` at `step`."""
    fails = rank == only

    def at_step(index: int) -> contextlib.AbstractContextManager[Any]:
        failing = fails and index == step
        broken = property(boom) if isinstance(target, type) else boom  # a class's attributes raise when they are read
        return mock.patch.object(target, name, broken, create=True) if failing else contextlib.nullcontext()

    return {"at_step": at_step}


def agreeing(rank: int, folder: Path) -> dict[str, Any]:
    """A run under "auto" whose ranks would choose differently: rank 0 doubles it, rank 1 takes it times eight."""

    def choose(cadence: Any, **_: Any) -> None:
        cadence.period *= 2 if rank == 0 else 8

    with mock.patch.object(_watch.Cadence, "recorded", choose):
        return train(sharded(), rank, WORLD, run_dir=folder / "auto", every="auto", console=0.0)


def failing(rank: int, folder: Path) -> dict[str, Any]:
    """Runs in which something fails on one rank."""
    places = {
        "measuring a block, rank 1": on(rank, 1, 4, _measure, "block_products"),
        "what was asked, rank 1": on(rank, 1, 4, _recorder, "asked_of"),
        "on an unrecorded step, rank 1": on(rank, 1, 5, _watch.Ledger, "log_first"),
        "the every-step path, rank 1": on(rank, 1, 4, _watch.Ledger, "end"),
        "the meter, rank 1": on(rank, 1, 4, _watch.Meter, "recorded"),
        "the store, rank 0": on(rank, 0, 4, Store, "step"),
        "the every-step path, rank 0": on(rank, 0, 5, _watch.Ledger, "end"),
    }
    return {
        name: train(sharded(), rank, WORLD, run_dir=folder / name, every=2, console=None, **options)
        for name, options in places.items()
    }


def see(rank: int, folder: Path) -> dict[str, Any]:
    """One rank's life."""
    if rank == 0:
        (folder / "a file").write_text("")
    dist.barrier()
    usual: dict[str, Any] = {"every": 2, "console": 0.0}
    return {
        "alone": train(build(), 0, 1),
        "ddp": train(replicated(), rank, WORLD, run_dir=folder / "ddp", balancer=Balancing(), **usual, title="ddp"),
        "fsdp": train(sharded(), rank, WORLD, run_dir=folder / "fsdp", balancer=Balancing(), **usual),
        "auto": agreeing(rank, folder),
        "no disk": train(sharded(), rank, WORLD, run_dir=folder / "a file", every=2, console=None),
        **failing(rank, folder),
    }


if __name__ == "__main__":
    sys.exit(fork(see, WORLD, Path(sys.argv[1])))
