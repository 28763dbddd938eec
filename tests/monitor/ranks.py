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


def shift_loss(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of every sample, and their weights."""
    return model(x).square().mean(1), torch.ones(len(x), dtype=x.dtype)


def shift_batches(rank: int, world: int) -> list[torch.Tensor]:
    """This rank's part of three batches, far from zero mean."""
    x = torch.randn(3, BATCH, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) + 1.0
    return [batch.chunk(world)[rank] for batch in x]


def measured(model: nn.Module, rank: int, world: int, run_dir: Path, fails: str = "") -> dict[str, Any]:
    """A run measured before its steps 1 and 2; at 1 something may fail: "loss" or "batch", and in which pass."""
    calls = 0

    def loss_fn(model: nn.Module, x: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        return boom() if f"loss {calls}" == fails else shift_loss(model, x)

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    found: list[Any] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with watch(model, optimizer, run_dir, every=1, console=None) as run:
            for step in range(3):
                if step:
                    batches = map(boom, [0]) if step == 1 and fails == "batch" else iter(shift_batches(rank, world))
                    found.append(run.covariate_shift(batches, loss_fn))
                x = shift_batches(rank, world)[step]
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return {
        "rows": [one and one.rows() for one in found],
        "warnings": [str(warning.message) for warning in caught],
        "weights": torch.cat([p.detach().flatten() for p in whole]),
    }


def measuring(rank: int, folder: Path) -> dict[str, Any]:
    """Runs whose covariate shift is measured on demand, where it succeeds and where it fails on rank 1 alone."""
    models = {"shift, ddp": replicated, "shift, fsdp": sharded}
    whole = {name: measured(make(), rank, WORLD, folder / name) for name, make in models.items()}
    failed = {
        f"shift, {fails} fails": measured(replicated(), rank, WORLD, folder / fails, fails if rank == 1 else "")
        for fails in ("batch", "loss 2", "loss 5")
    }
    return {**whole, **failed}


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
        **measuring(rank, folder),
    }


if __name__ == "__main__":
    sys.exit(fork(see, WORLD, Path(sys.argv[1])))
