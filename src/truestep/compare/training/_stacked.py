"""Training a stack: one optimizer for the weights of all replicas, each at its own lr or length."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from truestep.compare.training._batches import stacked_batches
from truestep.compare.training._probe import from_there_on
from truestep.compare.training._rehearsal import rehearse
from truestep.compare.training._replica import Replica
from truestep.compare.training._stack import Stack
from truestep.compare.training._stack_steps import stepper
from truestep.compare.training._task import Task
from truestep.loss import unit_loss


def train_stack(task: Task, replicas: Sequence[Replica]) -> tuple[Tensor, Tensor | None]:
    """Losses [replicas, points] and paths [replicas, points, numbers], all replicas at a time.

    Raises:
        NotStackableError: If that would give other numbers than one after another.
    """
    stack = Stack(task.problem, [replica.seed for replica in replicas])
    step = stepper(task, replicas, stack)
    orders = [*dict.fromkeys(replica.order for replica in replicas)]
    rehearse(task.problem, stack, [replica.order for replica in replicas])
    rows = torch.tensor([orders.index(replica.order) for replica in replicas], device=_device(stack))
    batches, probe = stacked_batches(task.problem, orders), task.problem.probe()
    losses, paths = list[Tensor](), list[Tensor]()
    for number in range(task.steps):
        found = _losses(stack, next(batches), rows, len(orders))
        _backward((_unit(found) if task.unit_loss else found).sum(), stack)
        step(number)
        if number + 1 in task.points:
            at, place = stack.at(probe, paths=task.paths)
            losses.append(at)
            paths += [] if place is None else [place]
    return from_there_on(torch.stack(losses, 1).cpu()), torch.stack(paths, 1).cpu() if task.paths else None


def _losses(stack: Stack, batch: Any, rows: Tensor, count: int) -> Tensor:
    """Loss of each replica on the batch of its order."""
    if count == 1:
        return stack.losses(tree_map(itemgetter(0), batch), shared=True)
    if count < len(rows):
        batch = tree_map(itemgetter(rows), batch)
    return stack.losses(batch, shared=False)


def _unit(losses: Tensor) -> Tensor:
    """Each loss over its own value."""
    least = losses.detach().amin()
    if least.device.type == "cpu" and least < 0:
        unit_loss(least)  # which says what becomes of negative ones, as it would replica by replica
    return vmap(unit_loss)(losses)


def _backward(loss: Tensor, stack: Stack) -> None:
    params = [p for p in stack.params.values() if p.requires_grad]
    gradients: list[Tensor | None] = [*torch.autograd.grad(loss, params, allow_unused=True)]
    for p, gradient in zip(params, gradients, strict=True):
        p.grad = None if gradient is None else gradient.contiguous()  # fused kernels read it as if it were


def _device(stack: Stack) -> torch.device:
    return next(iter(stack.params.values())).device
