"""What all replicas of a training have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch.optim import Optimizer

from truestep.compare._factory import OptimizerFactory
from truestep.compare.problems import Problem
from truestep.compare.training._replica import Control

Schedule = Literal["constant", "linear"]


@dataclass(frozen=True, slots=True)
class Task:
    """A training but for its replicas; see `train` for the fields.

    Args:
        problem: What is trained.
        optimizer: Gives the optimizer.
        steps: How long.
        points: Steps after which the probe's loss is taken.
        schedule: Of the lr, or of the length where steps are matched.
        control: What sets the length of the steps; None: the optimizer.
        unit_loss: Divide each loss by its own value.
        paths: Keep the probe's outputs.
    """

    problem: Problem
    optimizer: OptimizerFactory
    steps: int
    points: tuple[int, ...]
    schedule: Schedule
    control: Control | None
    unit_loss: bool
    paths: bool

    def factor(self, step: int) -> float:
        r"""The schedule at a step from 0 on: 1, or :math:`1 - t/T`."""
        return 1.0 if self.schedule == "constant" else 1 - step / self.steps


def task_of(
    problem: Problem,
    optimizer: OptimizerFactory,
    *,
    steps: int | None,
    points: int,
    schedule: Schedule,
    control: Control | None,
    unit_loss: bool,
    paths: bool,
) -> Task:
    """The task, its numbers checked.

    Raises:
        ValueError: If `steps` or `points` is not positive, or `schedule` is none.
    """
    steps = problem.max_steps if steps is None else steps
    for name, value in (("steps", steps), ("points", points)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, found {value}")
    if schedule not in get_args(Schedule):
        accepted = ", ".join(map(repr, get_args(Schedule)))
        raise ValueError(f"`schedule` must be one of {accepted}, found {schedule!r}")
    return Task(problem, optimizer, steps, spaced(steps, points), schedule, control, unit_loss, paths)


def spaced(steps: int, points: int) -> tuple[int, ...]:
    """At most so many numbers of steps, evenly spaced, up to the last.

    Example:
        >>> spaced(300, 3), spaced(2, 30)
        ((100, 200, 300), (1, 2))
    """
    count = min(points, steps)
    return tuple(round(steps * k / count) for k in range(1, count + 1))


class Lrs:
    """The lr of every group of an optimizer, to be multiplied step by step.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
        >>> lrs = Lrs(optimizer)
        >>> lrs.times(0.5)
        >>> lrs.times(0.25)
        >>> optimizer.param_groups[0]["lr"]
        0.125
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._held: list[tuple[dict[str, Any], Any]] = [(g, g["lr"]) for g in optimizer.param_groups if "lr" in g]

    def times(self, factor: float) -> None:
        """Give every group its first lr x `factor`."""
        for group, lr in self._held:
            group["lr"] = lr * factor
