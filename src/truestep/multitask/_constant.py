"""Weights that stay: the plain sum, or what another run has found."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from truestep.multitask._rule import AbstractRule, PerTask, Readings


class Constant(AbstractRule):
    """Fixed weights; all 1, the plain sum of the losses, where none are given.

    Args:
        weights: One number a task, up to a common factor: `balancer.static_weights()` of another run, say.

    Raises:
        ValueError: A weight is negative or not finite, all are zero, or (when the tasks are known) the names are not
            those of the tasks.

    Example:
        >>> rule = Constant({"0": 2.0, "1": 0.5})
        >>> rule(torch.tensor([1.0, 4.0]))
        tensor(4.)
    """

    positive = False
    _weights: Tensor

    def __init__(self, weights: Mapping[str, int | float] | None = None) -> None:
        super().__init__()
        bad = {task: w for task, w in (weights or {}).items() if not (math.isfinite(w) and w >= 0)}
        if bad:
            msg = f"`weights` must be finite and not negative; found {bad}"
            raise ValueError(msg)
        if weights and not any(weights.values()):
            msg = "`weights` must have one that is not zero"
            raise ValueError(msg)
        self._given = dict(weights) if weights is not None else None

    def _make(self, tasks: tuple[str, ...]) -> None:
        given = dict.fromkeys(tasks, 1.0) if self._given is None else self._given
        if set(given) != set(tasks):
            msg = f"`weights` must name each task once: {', '.join(tasks)}; found {', '.join(given)}"
            raise ValueError(msg)
        self.register_buffer("_weights", torch.tensor([given[task] for task in tasks], dtype=torch.float64))

    def weigh(self, seen: Readings) -> PerTask:  # noqa: ARG002 (nothing of it matters here)
        """The weights given."""
        return self._weights.clone()
