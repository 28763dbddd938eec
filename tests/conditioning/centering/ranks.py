"""Three gloo processes with 5, 2 and no samples, whose batches BatchCenter takes for one.

`python -m tests.conditioning.centering.ranks FOLDER` writes `FOLDER/<rank>.pt`, a dict of plain tensors.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.gloo import fork
from torch import Tensor, nn

from truestep.conditioning.centering import BatchCenter1d, BatchCenter2d, batch_mean

SIZES = (5, 2, 0)


def problem() -> tuple[Tensor, Tensor]:
    """Inputs of all ranks, off centre, and a direction in weight space."""
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(sum(SIZES), 4, generator=generator, dtype=torch.float64) + 2
    return a, torch.randn(3, 4, generator=generator, dtype=torch.float64)


def part(x: Tensor, rank: int) -> Tensor:
    """The samples of one rank."""
    return x.split(list(SIZES))[rank]


def passes(a: Tensor, v: Tensor, group: Any) -> dict[str, Tensor]:
    """Output, gradients, Hessian-vector product and running mean of a centred layer, full and direct."""
    found = {}
    for statistics in ("full", "direct"):
        layer = BatchCenter1d(3, statistics=statistics, process_group=group, dtype=torch.float64)
        w = nn.Parameter(torch.arange(12, dtype=torch.float64).reshape(3, 4) / 10)
        x = a.clone().requires_grad_()
        y = copy.deepcopy(layer)(x @ w.T)
        found[f"{statistics} copy"] = y.detach()
        y = layer(x @ w.T)
        grads = torch.autograd.grad(y.sin().square().sum(), (w, x, layer.bias), create_graph=True)
        product = torch.autograd.grad((grads[0] * v).sum(), w)[0]
        values = (y, *grads, product, layer.running_mean, layer.eval()(x @ w.T))
        names = ("output", "weight", "input", "bias", "product", "running mean", "evaluation")
        found |= {f"{statistics} {name}": x.detach() for name, x in zip(names, values, strict=True)}
    images = a[:, :, None, None].expand(-1, -1, 2, 3)  # all places alike
    found["images"] = BatchCenter2d(4, process_group=group, dtype=torch.float64)(images)[:, :, 0, 0].detach()
    found["mean"] = batch_mean(a, group)
    return found


def see(rank: int, _folder: Path) -> dict[str, Tensor]:
    """One rank's life."""
    a, v = problem()
    return passes(part(a, rank), v, dist.group.WORLD)


if __name__ == "__main__":
    sys.exit(fork(see, len(SIZES), Path(sys.argv[1])))
