"""Two gloo processes with uneven shares of a window: what the check says on each.

`python -m tests.loss.accumulation.check_ranks FOLDER` writes `FOLDER/<rank>.pt`, a dict of plain values;
the tests compare them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tests.gloo import fork
from tests.loss.accumulation.loops import each, mean, mlp, weighted, window
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from truestep.loss import Tally
from truestep.loss.accumulation._accumulation import check_accumulation

WORLD = 2
SIZES = ((3, 9), (5, 1))  # of the micro-batches of each rank


def tallied(model: Any, micro_batches: Any) -> None:
    tally = Tally("item")
    for batch in micro_batches:
        tally.backward(weighted(model, batch)[0])
    tally.finish(model.parameters())


LOOPS: dict[str, Any] = {
    "tally": (weighted, tallied, SIZES),
    "local means": (weighted, each(mean, lambda k: 1 / k), SIZES),
    "missing division": (mean, each(mean), ((4, 4), (4, 4))),
    "equal": (mean, each(mean, lambda k: 1 / k), ((4, 4), (4, 4))),
}


def build(way: str) -> Any:
    torch.manual_seed(0)
    model: Any = mlp()
    if way == "ddp":
        return DistributedDataParallel(model)
    fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
    return model


def told(way: str, name: str, rank: int) -> dict[str, Any]:
    """The check's figures on one rank."""
    loss_fn, loop, sizes = LOOPS[name]
    model = build(way)
    torch.manual_seed(1 + rank)
    check = check_accumulation(model, loss_fn, window(*sizes[rank]), loop)
    figures = {"ratio": check.ratio, "relative_error": check.relative_error, "ok": check.ok, "cause": check.cause}
    return {**figures, "weight": check.evidence.window.weight, "grads": [p.grad for p in model.parameters()]}


def see(rank: int, _folder: Path) -> dict[Any, Any]:
    """One rank's life."""
    return {(way, name): told(way, name, rank) for way in ("ddp", "fsdp") for name in LOOPS}


if __name__ == "__main__":
    sys.exit(fork(see, WORLD, Path(sys.argv[1])))
