"""What the tests of the guard share: every rule of torch.optim, bad gradients, and the whole of a run compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from tests.cases import optimizer_settings
from torch import Tensor, nn
from torch.optim import Optimizer

BAD = ("nan", "inf", "zero")
REASON = {"nan": "not finite", "inf": "not finite", "zero": "zero"}
FLAGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight decay": {"weight_decay": 0.1},
    "momentum": {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    "momentum and decay": {"momentum": 0.9, "weight_decay": 0.1},
    "amsgrad": {"amsgrad": True, "weight_decay": 0.1},
    "centered": {"centered": True, "momentum": 0.9},
}


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """Rule and settings: loops, foreach and fused, with and without what moves weights at a zero gradient."""
    for name, _, _, settings in optimizer_settings(FLAGS):
        yield name, settings


def network(rule: str = "") -> nn.Sequential:
    """Two layers; of matrices only where the rule wants them."""
    bias = rule != "Muon"
    return nn.Sequential(nn.Linear(5, 6, bias=bias), nn.Tanh(), nn.Linear(6, 4, bias=bias))


def fill(model: nn.Module, seed: int, bad: str = "") -> None:
    """New gradients; spoiled in one element of the last tensor, or zero in all."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        if bad == "zero":
            p.grad.zero_()
    if bad in ("nan", "inf"):
        grad = list(model.parameters())[-1].grad
        assert grad is not None
        grad.view(-1)[-1] = float(bad)


def everything(model: nn.Module, optimizer: Optimizer) -> Any:
    """A copy of weights and of the optimizer's whole state."""
    return copy.deepcopy([[p.detach() for p in model.parameters()], optimizer.state_dict()])


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, nested to any depth, nan equal to nan."""
    if isinstance(a, Tensor):
        bits = (a.dtype, a.shape) == (b.dtype, b.shape)
        return bits and bool(((a == b) | (a.isnan() & b.isnan())).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
