"""A recorder, and beside it what a test copies itself: float64 vectors taken around the step, not through the hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tests.cases import assert_same_gram, dense64, explicit, stacked
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.core import Gram, Recorder, Step

Params = Mapping[str, Tensor]


class Beside:
    """Recorded steps in `steps`, and `take()` to make a step and compare it with the test's own vectors."""

    def __init__(self, params: Params, optimizer: Optimizer, **options: Any) -> None:
        self.params, self.optimizer = params, optimizer
        self.steps: list[Step] = []
        self.recorder = Recorder(params, optimizer, self.steps.append, **options)

    def assert_step(
        self,
        step: Callable[[], Any] | None = None,
        grads: Mapping[str, Tensor | None] | None = None,
        tolerance: float = 1e-12,
    ) -> Gram:
        """Step; the Gram found in the test's copies, after asserting that the recorder found it too.

        `grads`: the gradients that the step will use; those in `.grad` before it where none are given.
        """
        before = {name: copy(p) for name, p in self.params.items()}
        used = {name: p.grad for name, p in self.params.items()} if grads is None else grads
        used = {name: None if g is None else copy(g) for name, g in used.items()}
        number = len(self.steps)
        (step or self.optimizer.step)()
        assert len(self.steps) == number + 1
        names = self.steps[-1].names
        expected = stacked(
            explicit(before[name], used[name], dense64(self.params[name].detach()) - dense64(before[name]))
            for name in names
        )
        assert_same_gram(self.steps[-1].took, expected, tolerance)
        return expected


def copy(x: Tensor) -> Tensor:
    """A copy that shares nothing; a sparse one with each entry once, as the optimizers see it."""
    x = x.detach().clone()
    return x.coalesce().to_dense() if x.layout == torch.sparse_coo else x


def small_net() -> nn.Sequential:
    """Two layers, float32."""
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))


def named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name."""
    return dict(model.named_parameters())


def backward(model: nn.Module, scale: float = 1.0) -> Tensor:
    """New gradients from a new random batch."""
    model.zero_grad()
    loss = (model(torch.randn(8, 5)) - 1).square().mean() * scale
    loss.backward()
    return loss


def gradients(model: nn.Module, loss_of: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Gradients at the present weights, without touching `.grad`."""
    params = named(model)
    return dict(zip(params, torch.autograd.grad(loss_of(), list(params.values())), strict=True))
