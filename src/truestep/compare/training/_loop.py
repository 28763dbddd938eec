"""One replica trained as anybody would: model, optimizer, batches, a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.compare._draws import draws_from
from truestep.compare._factory import scaled
from truestep.compare.problems import data_stream
from truestep.compare.step_matched import StepMatched
from truestep.compare.training._probe import MeanLoss, Probe, from_there_on
from truestep.compare.training._replica import Grafted, Matched, Replica
from truestep.compare.training._task import Lrs, Task
from truestep.loss import unit_loss


def train_each(task: Task, replicas: list[Replica]) -> tuple[Tensor, Tensor | None]:
    """Losses [replicas, points] and paths [replicas, points, numbers], one replica after another."""
    probe = Probe(task.problem, paths=task.paths)
    runs = [_train_one(task, replica, probe) for replica in replicas]
    paths = torch.stack([path for _, path in runs if path is not None]) if task.paths else None
    return torch.stack([losses for losses, _ in runs]), paths


def _train_one(task: Task, replica: Replica, probe: Probe) -> tuple[Tensor, Tensor | None]:
    model = task.problem.build(replica.seed)
    optimizer, begin = _optimizer(task, replica, model)
    batches, loss_fn = iter(task.problem.batches(replica.order)), MeanLoss(model, task.problem.loss_fn)
    losses, path, take = list[Tensor](), list[Tensor](), _step(optimizer)
    with draws_from(data_stream(replica.order).initial_seed()):  # dropout's, whatever was drawn before
        for step in range(task.steps):
            begin(step)
            take(_closure(optimizer, loss_fn, next_batch(batches, step), task.unit_loss))
            if step + 1 in task.points and _note(probe, optimizer, model, losses, path):
                break
    rest = len(task.points) - len(losses)  # of a run that diverged
    losses, path = losses + losses[-1:] * rest, path + path[-1:] * rest
    return from_there_on(torch.stack(losses).cpu()), torch.stack(path).cpu() if task.paths else None


def _closure(optimizer: Optimizer, loss_fn: MeanLoss, batch: Any, unit: bool) -> Callable[[], Tensor]:
    """Takes loss and gradients at once, as most rules and SAM's first step need them; called, only if they are old."""

    @torch.enable_grad()  # AliG and others call it without
    def evaluated() -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(batch)
        if unit:
            loss = unit_loss(loss)
        loss.backward()
        return loss

    held, at = evaluated(), _versions(optimizer)
    return lambda: held if _versions(optimizer) == at else evaluated()


def _versions(optimizer: Optimizer) -> list[tuple[int, int, int]]:
    """Another list once a weight or a gradient was written to."""
    return [
        (p._version, id(p.grad), -1 if p.grad is None else p.grad._version)
        for group in optimizer.param_groups
        for p in group["params"]
    ]


def _step(optimizer: Optimizer) -> Callable[[Any], Any]:
    """Its step with a closure, of which some rules know nothing."""
    if signature(optimizer.step).parameters:
        return optimizer.step
    return lambda _: cast("Any", optimizer).step()


def _optimizer(task: Task, replica: Replica, model: nn.Module) -> tuple[Optimizer, Callable[[int], None]]:
    """The optimizer, its control hung on, and what is to be called before each step."""
    optimizer, control = task.optimizer([*model.parameters()]), task.control
    _mode(optimizer, "train")
    if isinstance(control, Matched):
        length = partial(_length, task, control.length * replica.multiplier)
        StepMatched(optimizer, length, norm=control.norm, scope=control.scope, probe=_outputs(task, model))
        return optimizer, _nothing
    timed = optimizer
    if isinstance(control, Grafted):
        timed = control.optimizer([*model.parameters()])
        StepMatched(optimizer, timed, norm=control.norm, scope=control.scope, probe=_outputs(task, model))
    lrs = Lrs(scaled(timed, replica.multiplier))
    return optimizer, _nothing if task.schedule == "constant" else partial(_schedule, task, lrs)


def _outputs(task: Task, model: nn.Module) -> Callable[[], Tensor] | None:
    """The probe that the norm of the outputs asks for."""
    is_function = task.control is not None and task.control.norm == "function"
    return partial(task.problem.outputs, model) if is_function else None


def _length(task: Task, length: float, step: int) -> float:
    return length * task.factor(step)


def _schedule(task: Task, lrs: Lrs, step: int) -> None:
    lrs.times(task.factor(step))


def _nothing(step: int) -> None:
    """There is nothing to set before a step."""


def next_batch(batches: Iterator[Any], step: int) -> Any:
    """The next of a problem's batches.

    Raises:
        ValueError: If there is none.
    """
    for batch in batches:
        return batch
    raise ValueError(f"`steps` must not be more than the problem has batches for, found an end after {step}")


def _note(probe: Probe, optimizer: Optimizer, model: nn.Module, losses: list[Tensor], path: list[Tensor]) -> bool:
    """Take the loss and the place; whether the run has diverged."""
    _mode(optimizer, "eval")
    loss, place = probe.of(model)
    _mode(optimizer, "train")
    losses.append(loss)
    if place is not None:
        path.append(place)
    return not bool(loss.isfinite())


def _mode(optimizer: Any, mode: str) -> None:
    """Schedule-free optimizers train at one point and are judged at another."""
    if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None)):
        getattr(optimizer, mode)()
