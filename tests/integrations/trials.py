"""Trials that workers can import: a small training that leaves marks, a bowl, and calls that go wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

FREE = 6  # seeds from here on wait, at work, for a file `go` in their folder


def train(folder: str, seed: int) -> dict[str, Any]:
    """Leaves a file `<seed> <node> <process> start`, and at its end the same with `end`."""
    import torch  # seconds, which the other calls need not wait

    mark = f"{seed} {node()} {os.getpid()}"
    Path(folder, f"{mark} start").touch()
    while seed >= FREE and not Path(folder, "go").exists():
        time.sleep(0.01)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(20, generator=generator, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    losses = []
    for _ in range(20):
        loss = (weight * torch.randn(20, generator=generator)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    Path(folder, f"{mark} end").touch()
    return {"losses": losses}


def node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"


def marks(folder: Path, of: str, what: str) -> set[str]:
    """`<seed> <node> <process>` of the trainings that a node, or "*", has begun ("start") or done ("end")."""
    return {file.name.removesuffix(f" {what}") for file in folder.glob(f"* {of} * {what}")}


def bowl(x: float, y: float) -> dict[str, float]:
    return {"loss": (x - 0.3) ** 2 + (y + 0.2) ** 2}


def fail(text: str) -> None:
    raise KeyError(text)


def die() -> None:
    os._exit(1)


def endless(file: str) -> None:
    Path(file).touch()
    time.sleep(1000)
