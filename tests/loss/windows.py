"""Windows of micro-batches that the tally is tried on, and the union batch's gradient that each must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLASSES, FEATURES = 5, 6


@dataclass(frozen=True)
class Batch:
    """Sequences [items, tokens, FEATURES], their labels, what is kept of them, and class weights."""

    x: Tensor
    y: Tensor
    mask: Tensor
    weight: Tensor

    def split(self, sizes: list[int]) -> list[Batch]:
        parts = (tensor.split(sizes) for tensor in (self.x, self.y, self.mask, self.weight))
        return [Batch(*part) for part in zip(*parts, strict=True)]

    def losses(self, model: nn.Module) -> Tensor:
        return cross_entropy(model(self.x).flatten(0, 1), self.y.flatten(), reduction="none").view_as(self.y)


def batch(items: int = 96, tokens: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """A batch in which some tokens, and all of one item, are ignored."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(items, tokens, FEATURES, generator=generator).to(dtype)
    y = torch.randint(CLASSES, (items, tokens), generator=generator)
    mask = torch.rand(items, tokens, generator=generator) < 0.6
    mask[items // 2] = False
    weight = torch.rand(CLASSES, generator=generator).to(dtype)[y]
    return Batch(x, y, mask, weight)


def net(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, CLASSES)).to(dtype)


# The objectives, each written out for a whole batch: the mean of weighted losses.
OBJECTIVES: dict[str, Callable[[Tensor, Batch], Tensor]] = {
    "token": lambda losses, b: (losses * b.weight)[b.mask].sum() / b.mask.sum(),
    "weight": lambda losses, b: (losses * b.weight)[b.mask].sum() / b.weight[b.mask].sum(),
    "item": lambda losses, b: torch.stack(
        [(row * w)[kept].mean() for row, w, kept in zip(losses, b.weight, b.mask, strict=True) if kept.any()]
    ).mean(),
}


def wanted(objective: str, scale: str, model: nn.Module, whole: Batch) -> Tensor:
    """The step's gradient from the union batch, each scale by its definition."""
    mean = OBJECTIVES[objective](whole.losses(model), whole)
    unit = mean.detach()
    scalar = {"mean": mean, "ref": mean / unit, "unit": mean.log(), "sqrt": 2 * mean.sqrt(), "ngd": mean}[scale]
    gradient = flat(torch.autograd.grad(scalar, list(model.parameters())))
    return gradient / gradient.norm() if scale == "ngd" else gradient


def flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([x.detach().double().flatten() for x in tensors])


def gradient_of(model: nn.Module) -> Tensor:
    """All gradients that stand in `.grad`, as one vector."""
    return flat(tuple(p.grad for p in model.parameters() if p.grad is not None))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
