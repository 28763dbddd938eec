"""A small classifier in float64, micro-batches of equal and of ragged weight, and their union's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor]  # inputs [n, 3], targets [n], -100 where ignored


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


def equal(num: int, seed: int = 0) -> list[Batch]:
    """Micro-batches of four targets."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 4, 3, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 2, (num, 4), generator=generator)
    return list(zip(x, y, strict=True))


def ragged(num: int, seed: int = 0) -> list[Batch]:
    """Micro-batches of one to four targets."""
    return [(x, y.where(torch.arange(4) <= i % 4, -100)) for i, (x, y) in enumerate(equal(num, seed))]


def cross_entropy(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Losses, and weights: 0 where the target is ignored."""
    x, y = batch
    return functional.cross_entropy(model(x), y, reduction="none"), (y != -100).double()


def mean_loss(model: Any, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def union_gradient(model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """Gradient of the mean over all kept targets."""
    union = (torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
    gradients = torch.autograd.grad(mean_loss(model, union), list(model.parameters()))
    return torch.cat([g.flatten() for g in gradients])


def flat_gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
