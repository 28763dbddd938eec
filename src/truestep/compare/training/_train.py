"""Training many replicas of one problem with one optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from truestep.compare._factory import OptimizerFactory
from truestep.compare.problems import Problem
from truestep.compare.training._curves import Curves
from truestep.compare.training._loop import train_each
from truestep.compare.training._replica import Control, Replica
from truestep.compare.training._stackable import NotStackableError, why_not_worth_it
from truestep.compare.training._stacked import train_stack
from truestep.compare.training._task import Schedule, Task, task_of


def train(
    problem: Problem,
    optimizer: OptimizerFactory,
    replicas: Sequence[Replica],
    *,
    steps: int | None = None,
    points: int = 30,
    schedule: Schedule = "constant",
    control: Control | None = None,
    unit_loss: bool = False,
    paths: bool = False,
    stacked: bool | None = None,
) -> Curves:
    """Train replicas of one problem, and take each one's loss on the probe at the same steps.

    Where the optimizer's rule is one of `STACKABLE`, all replicas are trained as one stack of weights, in a fraction
    of the time: of the digits MLP, on one core, 16 at least 2.5 times and 100 at least 6 times as fast as a loop over
    them. Their numbers are those of the loop up to rounding, which a long training can amplify. One step of the stack
    is compared with the same step of two replicas first; what would not be equal is trained one after another, and so
    is what would not be faster, as two or three replicas or a model of many weights on a CPU. `why_not` says why.

    Args:
        problem: What is trained. Replicas of one seed start from the same weights, of one order see the same batches.
        optimizer: Gives the optimizer of a list of weights: `functools.partial(torch.optim.Adam, lr=1e-3)`.
        replicas: The runs.
        steps: Default: the problem's `max_steps`.
        points: Times that the loss is taken, evenly spaced, at the end for the last time.
        schedule: Of the lr (of the length, where steps are matched): "constant", or "linear" down to 0.
        control: `Matched` or `Grafted` lengths of the steps; None: the optimizer's own.
        unit_loss: Divide each loss by its own value, as `truestep.loss.unit_loss` does.
        paths: Keep where the models went, too.
        stacked: None: where it can be and is worth it. True: or else a ValueError. False: never.

    Raises:
        ValueError: If there are no replicas, a number is not positive, the problem has too few batches, or `stacked`
            is True and cannot be.

    Note:
        Models that draw random numbers (dropout) are trained one by one, with numbers of torch, Python and numpy from
        the order's seed. Gradients are there before a step, and a closure too, which gives them anew where weights
        have moved since (LBFGS, SAM). Optimizers with `train()` and `eval()` (schedule-free) are judged in the latter.
        Those that want a graph of the gradients (AdaHessian, Sophia) are not trained.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from truestep.compare.problems import quadratic
        >>> adam = partial(torch.optim.Adam, lr=0.01)
        >>> replicas = [Replica(0, 0, multiplier=multiplier) for multiplier in (1, 2, 5, 10)]
        >>> curves = train(quadratic(), adam, replicas, steps=100, points=2)
        >>> curves.steps, curves.stacked
        ((50, 100), True)
        >>> bool(curves.losses[3, 0] < curves.losses[0, 1])  # ten times the lr is further in half of the time
        True
    """
    if not replicas:
        raise ValueError("`replicas` must be at least one, found none")
    task = task_of(
        problem,
        optimizer,
        steps=steps,
        points=points,
        schedule=schedule,
        control=control,
        unit_loss=unit_loss,
        paths=paths,
    )
    losses, places, why_not = _trained(task, [*replicas], stacked)
    return Curves(task.points, losses, places, not why_not, why_not)


def _trained(task: Task, replicas: list[Replica], stacked: bool | None) -> tuple[Tensor, Tensor | None, str]:
    """Losses, paths, and why it was one after another."""
    if stacked is False:
        why_not = "one after another was asked for"
    elif stacked is None:
        why_not = why_not_worth_it(task.problem.build(replicas[0].seed), len(replicas))
    else:
        why_not = ""
    if not why_not:
        try:
            return *train_stack(task, replicas), ""
        except NotStackableError as error:
            if stacked:
                raise ValueError(f"`stacked` must not be True here: {error}") from error
            why_not = str(error)
    return *train_each(task, replicas), why_not


def train_trial(
    problem: Problem, optimizer: OptimizerFactory, replicas: Sequence[Replica], **settings: Any
) -> dict[str, Any]:
    """`train(...).as_dict()` on one thread: what a sweep runs, as a `functools.partial` of this with all arguments.

    Args:
        problem: As in `train`, and so are the others.
        optimizer: As in `train`.
        replicas: As in `train`; a stack of them is one trial.
        **settings: As in `train`.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from truestep.compare.problems import quadratic
        >>> trial = partial(train_trial, quadratic(), torch.optim.Adam, [Replica(0, 0)], steps=10, points=2)
        >>> trial()["steps"]
        [5, 10]
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train(problem, optimizer, replicas, **settings).as_dict()
    finally:
        torch.set_num_threads(threads)
