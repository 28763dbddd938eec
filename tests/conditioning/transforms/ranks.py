"""Two gloo processes, plain and under DDP: means are those of both ranks' rows.

`python -m tests.conditioning.transforms.ranks FOLDER` writes `FOLDER/<rank>.pt`, a dict of plain tensors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tests.gloo import fork
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

from truestep.conditioning.transforms._gradient_centering import GradientCentering
from truestep.conditioning.transforms._quasi_diagonal import QuasiDiagonal
from truestep.conditioning.transforms._standardizing import Standardizing

WORLD, STEPS = 2, 3
TRANSFORMS = {
    "centering": lambda model, optimizer: GradientCentering(model, optimizer, ema=0.5),
    "full": lambda model, optimizer: Standardizing(model, optimizer, ema=0.5, damping=0.1),
    "quasi": lambda model, optimizer: QuasiDiagonal(model, optimizer, ema=0.5, damping=0.1),
    "diagonal": lambda model, optimizer: Standardizing(model, optimizer, matrix="diagonal", ema=0.5, damping=0.1),
}


class Idle(nn.Module):
    """A layer with a gradient that its own forward never made."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.inner.weight, self.inner.bias)


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(4, 3, dtype=torch.float64), nn.Sigmoid(), Idle(), nn.Linear(3, 1, dtype=torch.float64)
    )


def batches() -> list[Tensor]:
    torch.manual_seed(4)
    return [torch.randn(8, 4, dtype=torch.float64) + 2 for _ in range(STEPS)]


def walk(model: nn.Module, attach: Any, part: slice) -> dict[str, Tensor]:
    """The weights after some steps on a part of each batch."""
    optimizer: Optimizer = SGD(model.parameters(), lr=0.1)
    attach(model, optimizer)
    for batch in batches():
        optimizer.zero_grad()
        model(batch[part]).square().mean().backward()
        optimizer.step()
    return {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}


def see(rank: int, _folder: Path) -> dict[str, Any]:
    """One rank's life: half a batch each."""
    part = slice(4 * rank, 4 * rank + 4)
    return {name: walk(DistributedDataParallel(net()), attach, part) for name, attach in TRANSFORMS.items()}


if __name__ == "__main__":
    sys.exit(fork(see, WORLD, Path(sys.argv[1])))
