"""Weights under gradients that are pure noise: isotropic, orthogonal to the weight, of one size at the unit sphere."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from truestep.invariance._rule import Rule, rules

UNITS, ELEMENTS, SIZE = 32, 256, 4.0  # SIZE: mean squared norm of the gradient at the unit sphere


def noise(w: Tensor) -> Tensor:
    """One gradient for each row: Gaussian, orthogonal to the row, SIZE / |row|² in its expected square."""
    z = torch.randn_like(w)
    squared = w.square().sum(1, keepdim=True)
    z -= w * ((z * w).sum(1, keepdim=True) / squared)
    return z * (SIZE / (w.shape[1] - 1) / squared).sqrt()


def start(norm: float) -> Tensor:
    """UNITS rows of one norm, in random directions, float64."""
    w = torch.randn(UNITS, ELEMENTS, dtype=torch.float64)
    return w * (norm / w.norm(dim=1, keepdim=True))


def walk(w: Tensor, build: Callable[[list[Tensor]], Optimizer], steps: int) -> tuple[Tensor, Tensor]:
    """Cosines of the steps' angles and squared norms after them, both [steps, units]; `w` is moved."""
    optimizer = build([w])
    cosines, squares = torch.empty(2, steps, len(w), dtype=torch.float64)
    before, norm = w.clone(), w.norm(dim=1)
    for step in range(steps):
        w.grad = noise(w)
        optimizer.step()
        after = w.norm(dim=1)
        cosines[step], squares[step] = (before * w).sum(1) / (norm * after), after**2
        before, norm = w.clone(), after
    return cosines, squares


def mean_and_error(per_unit: Tensor) -> tuple[float, float]:
    """Mean over units, which are independent, and its standard error."""
    return float(per_unit.mean()), float(per_unit.std()) / sqrt(len(per_unit))


class SGDW(torch.optim.SGD):
    """SGD whose decay multiplies the weights beside the step, before it, as AdamW's does."""

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)

    def step(self, closure: Any = None) -> None:  # pyright: ignore
        for group in self.param_groups:
            decay, group["weight_decay"] = group["weight_decay"], 0.0
            for p in group["params"]:
                p.mul_(1 - group["lr"] * decay)
            group["decay"] = decay
        super().step(closure)
        for group in self.param_groups:
            group["weight_decay"] = group.pop("decay")


class Lion(Optimizer):
    """Lion as its authors write it (Chen et al., 2023, algorithm 2)."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                average = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                update = (beta1 * average + (1 - beta1) * p.grad).sign()
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                average.lerp_(p.grad, 1 - beta2)


def rule_of(build: Callable[[list[Tensor]], Optimizer]) -> Rule:
    """The rule that is read from the optimizer."""
    (rule,) = rules(build([torch.zeros(2)]))
    return rule
