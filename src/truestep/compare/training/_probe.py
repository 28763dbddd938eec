"""Losses of a problem as modules, so that one set of weights or many can be put under them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from truestep.compare.problems import Problem
from truestep.compare.problems._problem import evaluating
from truestep.compare.step_matched._extent import real
from truestep.core._mean_loss import mean_loss

SMALL: Final = 100  # weights of a model whose path is that of its weights
MOST: Final = 8192  # outputs that a point of a path has


class MeanLoss(nn.Module):
    """Mean loss of `model` on a batch.

    Example:
        >>> from truestep.compare.problems import squared_loss
        >>> MeanLoss(nn.Identity(), squared_loss)((torch.tensor([[2.0]]), torch.zeros(1, 1)))
        tensor(4.)
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Any) -> Tensor:
        """A scalar."""
        return mean_loss(self.loss_fn(self.model, batch))[0]


class Outputs(nn.Module):
    """What `model` gives for a batch's first entry, flattened; of very many outputs evenly spaced ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        """One row of numbers."""
        outputs = real(self.model(batch[0])).flatten()
        return outputs[:: math.ceil(len(outputs) / MOST)]


class Probe:
    """Loss and place of a model, in evaluation mode, on the problem's probe.

    Example:
        >>> from truestep.compare.problems import quadratic
        >>> problem = quadratic(spread=0)
        >>> Probe(problem, paths=True).of(problem.build(0))
        (tensor(50.5000, dtype=torch.float64), tensor([1., 1.]))
    """

    def __init__(self, problem: Problem, *, paths: bool) -> None:
        self.batch, self._loss_fn, self._paths = problem.probe(), problem.loss_fn, paths

    @torch.no_grad()
    def of(self, model: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Its loss in float64, and its path's next point."""
        with evaluating(model):
            loss = MeanLoss(model, self._loss_fn)(self.batch)
            return loss.double(), self._place(model) if self._paths else None

    def _place(self, model: nn.Module) -> Tensor:
        if is_small(model):
            return torch.cat([real(p).flatten() for p in model.parameters()]).float()
        return Outputs(model)(self.batch).float()


def is_small(model: nn.Module) -> bool:
    """Whether its path is that of its weights."""
    return sum(p.numel() for p in model.parameters()) <= SMALL


def from_there_on(losses: Tensor) -> Tensor:
    """Inf from the first loss on that is not finite.

    Example:
        >>> from_there_on(torch.tensor([[1.0, torch.nan, 1.0]]))
        tensor([[1., inf, inf]])
    """
    diverged = (~losses.isfinite()).cumsum(-1) > 0
    return torch.where(diverged, torch.inf, losses)
