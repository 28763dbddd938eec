"""One way to compare optimizers fairly, and the order it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare.rank._expected_best_of import expected_best_of
from truestep.compare.rank._probabilities import rank_probabilities
from truestep.compare.statistics import Interval, geometric_interval, log_losses

Knob = Literal["lr", "length"]


@dataclass(frozen=True, slots=True)
class Protocol:
    """The order of optimizers under one protocol. Names are the optimizers', in the order of the ranking's `names`.

    Args:
        name: "default lr", "tuned lr", "matched l2 global" (norm, scope) or "unit loss".
        knob: What the grid is of: "lr", or "length" of the first step in the protocol's norm.
        grid: Values tried, from small to large.
        losses: Loss at the end of training, by value and seed; inf or nan where a run diverged.
        half: The same at half of training.
        best: The value whose geometric mean over seeds is least at the end.
        loss: Geometric mean of the loss at the end, at the best value, and its 95 % interval over seeds.
        rank: 1 for the least `loss`; equal ones have the same.
        probabilities: Of each rank, by the bootstrap over seeds and over as many random draws as a grid has values.
        better: Probability that the row's loss is below the column's, over seeds; see `rank_probabilities`.
        diverged: Share of the seeds that diverged at the best value.
        budget: Where values are tuned: for each number k of random draws from the grid, the expected best loss.
    """

    name: str
    knob: Knob
    grid: dict[str, tuple[float, ...]]
    losses: dict[str, Float64[Tensor, "_ seeds"]]
    half: dict[str, Float64[Tensor, "_ seeds"]]
    best: dict[str, float]
    loss: dict[str, Interval]
    rank: dict[str, int]
    probabilities: Float64[Tensor, "optimizers ranks"]
    better: Float64[Tensor, "optimizers optimizers"]
    diverged: dict[str, float]
    budget: dict[str, dict[int, float]]

    @property
    def order(self) -> list[str]:
        """Names, the first rank first."""
        return sorted(self.rank, key=self.rank.__getitem__)

    @property
    def winner(self) -> str:
        """The first; of equal ones, the one that was named first."""
        return self.order[0]

    @property
    def levels(self) -> Float64[Tensor, " optimizers"]:
        """Logarithm of `loss`: what orders are compared by."""
        return torch.tensor([interval.mean for interval in self.loss.values()], dtype=torch.float64).log()

    def half_levels(self, ceiling: int | float) -> Float64[Tensor, " optimizers"]:
        """The same at half of training, at the value that is best at the end."""
        rows = [self.half[name][self.grid[name].index(best)] for name, best in self.best.items()]
        return torch.stack([log_losses(row, ceiling).mean() for row in rows])

    def at_edge(self, name: str) -> bool:
        """Whether the best of several values tried is the smallest or the largest of them."""
        values = self.grid[name]
        return len(values) > 1 and self.best[name] in (values[0], values[-1])


def judge_protocol(
    name: str,
    knob: Knob,
    grid: Mapping[str, Sequence[float]],
    losses: Mapping[str, Float64[Tensor, "_ seeds"]],
    half: Mapping[str, Float64[Tensor, "_ seeds"]],
    *,
    ceiling: int | float,
    budgets: Sequence[int] = (),
) -> Protocol:
    """Order optimizers by their losses; all arguments are as the fields of `Protocol`.

    Args:
        name: Of the protocol.
        knob: What the grid is of.
        grid: Values tried.
        losses: At the end.
        half: At half of training.
        ceiling: A loss above it counts as diverged.
        budgets: Numbers of draws to tell the expected best loss for.

    Example:
        >>> import torch
        >>> losses = {"sgd": torch.tensor([[4.0, 1.0], [1.0, 1.0]]), "adam": torch.tensor([[2.0, 2.0]])}
        >>> losses = {name: each.double() for name, each in losses.items()}
        >>> protocol = judge_protocol(
        ...     "tuned lr", "lr", {"sgd": (0.1, 1.0), "adam": (1e-3,)}, losses, losses, ceiling=1e3, budgets=[1]
        ... )
        >>> protocol.rank, protocol.best["sgd"], round(protocol.budget["sgd"][1], 3)
        ({'sgd': 1, 'adam': 2}, 1.0, 1.414)
    """
    logs = {key: log_losses(each, ceiling) for key, each in losses.items()}
    means = {key: each.mean(1) for key, each in logs.items()}
    index = {key: int(each.argmin()) for key, each in means.items()}
    least = {key: float(each.min()) for key, each in means.items()}
    sure = rank_probabilities(list(logs.values()))
    at_best = {key: losses[key][i] for key, i in index.items()}
    return Protocol(
        name,
        knob,
        {key: tuple(values) for key, values in grid.items()},
        dict(losses),
        dict(half),
        {key: grid[key][i] for key, i in index.items()},
        {key: geometric_interval(each, ceiling) for key, each in at_best.items()},
        {key: 1 + sum(other < level for other in least.values()) for key, level in least.items()},
        sure.ranks,
        sure.better,
        {key: float((~(each <= ceiling)).double().mean()) for key, each in at_best.items()},
        {key: {k: math.exp(expected_best_of(each, k)) for k in budgets} for key, each in means.items()},
    )
