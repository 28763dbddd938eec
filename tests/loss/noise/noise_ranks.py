"""Two gloo processes whose uneven micro-batches make one window: what `NoiseScale` keeps of it on each rank.

`python -m tests.loss.noise.noise_ranks FOLDER` writes `FOLDER/<rank>.pt`.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.gloo import fork
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from truestep.loss.noise._noise_scale import NoiseScale

WINDOWS = 9
SIZES = ((3, 5), (2, 1, 6))  # of the micro-batches of each rank


def build() -> nn.Sequential:
    """A small model in float64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def inputs(window: int) -> list[list[Tensor]]:
    """Micro-batches of each rank."""
    generator = torch.Generator().manual_seed(window)
    return [[torch.randn(n, 4, dtype=torch.float64, generator=generator) for n in sizes] for sizes in SIZES]


def measure(model: nn.Module, parts: list[list[Tensor]], **settings: Any) -> NoiseScale:
    """Run windows of summed losses, the last micro-batch alone without `no_sync`."""
    noise = NoiseScale(model.parameters(), **settings)
    for part in parts:
        model.zero_grad()
        for i, x in enumerate(part):
            waiting = i + 1 < len(part) and isinstance(model, DistributedDataParallel)
            with model.no_sync() if waiting else contextlib.nullcontext():
                model(x).square().sum().backward()
            noise.micro(len(x), factor=len(x))
        noise.window()
    return noise


def measure_by_hand(rank: int) -> NoiseScale:
    """Gradients added over the ranks by hand, the first rank without a micro-batch in the second window."""
    model = build()
    noise = NoiseScale(model.parameters(), reduced="sum")
    for window in range(2):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        for x in [] if (rank, window) == (0, 1) else inputs(window)[rank]:
            model(x).square().sum().backward()
            noise.micro(len(x), factor=len(x))
        for p in model.parameters():
            dist.all_reduce(p.grad)
        noise.window()
    return noise


def refused() -> str:
    """What is said of a model whose parameters are sharded."""
    model = build()
    fully_shard(model, mesh=init_device_mesh("cpu", (len(SIZES),)))
    try:
        NoiseScale(model.parameters())
    except ValueError as error:
        return str(error)
    return ""


def see(rank: int, _folder: Path) -> dict[Any, Any]:
    """One rank's life."""
    mine = [inputs(window)[rank] for window in range(WINDOWS)]
    found = {
        "ddp": measure(DistributedDataParallel(build()), mine),
        "alone": measure(build(), mine, reduced="none"),
        "idle": measure_by_hand(rank),
    }
    kept = {name: noise.state_dict()["windows"] for name, noise in found.items()}
    return kept | {"printed": str(found["ddp"].estimate()), "refused": refused()}


if __name__ == "__main__":
    sys.exit(fork(see, len(SIZES), Path(sys.argv[1])))
