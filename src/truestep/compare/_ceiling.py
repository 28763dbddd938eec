"""The loss at which a run counts as diverged."""

from __future__ import annotations

from typing import Final

from truestep.compare.problems import Problem

DIVERGED: Final = 1e3  # times the loss before training
_LEAST: Final = 1e-30  # of the loss before training, where the start is the minimum


def loss_ceiling(problem: Problem) -> float:
    """A thousand times the loss on the probe that the weights of seed 0 have before training.

    Example:
        >>> from truestep.compare.problems import rosenbrock
        >>> problem = rosenbrock()
        >>> round(loss_ceiling(problem) / problem.probe_loss(problem.build(0)))
        1000
    """
    return DIVERGED * max(problem.probe_loss(problem.build(0)), _LEAST)
