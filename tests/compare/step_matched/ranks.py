"""Two gloo processes under DDP: lengths and weights of each rank.

`python -m tests.compare.step_matched.ranks FOLDER` writes `FOLDER/<rank>.pt`; the test compares them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tests.compare.step_matched.nets import LENGTHS, backward, net, probe
from tests.gloo import fork
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

from truestep.compare.step_matched import StepMatched

WORLD, STEPS = 2, 3


def run(rank: int, norm: Any, *, grafted: bool) -> dict[str, Tensor]:
    """Lengths and weights of a run whose ranks see other batches."""
    model = net()
    wrapped = DistributedDataParallel(model)
    optimizer: Optimizer = SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    length = AdamW(wrapped.parameters(), lr=0.01) if grafted else LENGTHS[norm]
    matched = StepMatched(optimizer, length, norm=norm, probe=probe(model) if norm == "function" else None)
    took: list[Tensor] = []
    for step in range(STEPS):
        backward(wrapped, WORLD * step + rank)
        optimizer.step()
        took.append(matched.report.took)
    return {"took": torch.stack(took), "weights": torch.cat([p.detach().flatten() for p in model.parameters()])}


def see(rank: int, _folder: Path) -> dict[str, Any]:
    """A norm of the weights and that of the outputs, with lengths given and of another optimizer."""
    runs = [(norm, grafted) for norm in ("relative", "function") for grafted in (False, True)]
    return {f"{norm} {grafted}": run(rank, norm, grafted=grafted) for norm, grafted in runs}


if __name__ == "__main__":
    sys.exit(fork(see, WORLD, Path(sys.argv[1])))
