"""How the weights of a stack move: each replica at its own lr, or by a length of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from truestep.compare._factory import OptimizerFactory, scaled
from truestep.compare.step_matched._extent import real
from truestep.compare.training._lengths import StackLengths
from truestep.compare.training._replica import Control, Grafted, Matched, Replica
from truestep.compare.training._stack import Stack
from truestep.compare.training._stackable import NotStackableError, stacked_optimizer
from truestep.compare.training._task import Lrs, Task


def stepper(task: Task, replicas: Sequence[Replica], stack: Stack) -> Callable[[int], None]:
    """What takes the step of a number, from 0 on, when the gradients are there.

    Raises:
        NotStackableError: If an optimizer cannot, or lengths are of the outputs.
    """
    multipliers = [float(replica.multiplier) for replica in replicas]
    optimizer, control = _optimizer(task.optimizer, stack), task.control
    if isinstance(control, Grafted):
        return _Grafted(
            task, optimizer, _optimizer(control.optimizer, stack), multipliers, _lengths(optimizer, control)
        )
    if isinstance(control, Matched):
        return _Matched(task, optimizer, control.length, multipliers, _lengths(optimizer, control))
    return _Scaled(task, optimizer, multipliers)


class _Scaled:
    """Each replica's displacement times its multiplier: the step at its lr, as the rules of a stack go."""

    def __init__(self, task: Task, optimizer: Optimizer, multipliers: Sequence[float]) -> None:
        top = max(multipliers)  # taken by the optimizer: what is left are factors of at most 1, which add no rounding
        self._optimizer, self._task = scaled(optimizer, top), task
        self._lrs, self._params = Lrs(optimizer), _moved(optimizer)
        self._before = [torch.empty_like(p) for p in self._params]
        shares = [multiplier / top for multiplier in multipliers]
        self._shares = None if min(shares) == 1 else [_column(shares, real(p)) for p in self._params]

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        if self._task.schedule != "constant":
            self._lrs.times(self._task.factor(step))
        if self._shares is None:
            self._optimizer.step()
            return
        _copy(self._before, self._params)
        self._optimizer.step()
        for before, p, share in zip(self._before, self._params, self._shares, strict=True):
            real(p.detach()).copy_(torch.lerp(real(before), real(p), share))


class _Matched:
    """Each replica's step at its length of the schedule."""

    def __init__(
        self,
        task: Task,
        optimizer: Optimizer,
        length: int | float,
        multipliers: Sequence[float],
        lengths: StackLengths,
    ) -> None:
        self._task, self._optimizer, self._lengths, self._params = task, optimizer, lengths, _moved(optimizer)
        self._before = [torch.empty_like(p) for p in self._params]
        self._wanted = length * torch.tensor(multipliers, dtype=torch.float64, device=self._params[0].device)

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        _copy(self._before, self._params)
        self._optimizer.step()
        self._lengths.match_(self._before, self._wanted * self._task.factor(step))


class _Grafted:
    """Each replica's step as long as that of the reference from the same weights, at its multiplier and schedule."""

    def __init__(
        self,
        task: Task,
        optimizer: Optimizer,
        reference: Optimizer,
        multipliers: Sequence[float],
        lengths: StackLengths,
    ) -> None:
        self._task, self._optimizer, self._lengths, self._params = task, optimizer, lengths, _moved(optimizer)
        if [id(p) for p in _moved(reference)] != [id(p) for p in self._params]:
            raise NotStackableError("the two optimizers move different weights, or in another order")
        self._before = [torch.empty_like(p) for p in self._params]
        top = max(multipliers)
        self._reference, self._lrs = scaled(reference, top), Lrs(reference)
        shares = [multiplier / top for multiplier in multipliers]
        self._shares = torch.tensor(shares, dtype=torch.float64, device=self._params[0].device)

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        self._lrs.times(self._task.factor(step))
        _copy(self._before, self._params)
        self._reference.step()
        wanted = self._lengths.lengths(self._lengths.extents(self._before), self._shares)
        _copy(self._params, self._before)
        self._optimizer.step()
        self._lengths.match_(self._before, wanted)


def _optimizer(factory: OptimizerFactory, stack: Stack) -> Optimizer:
    return stacked_optimizer(factory, [*stack.model.parameters()], [*stack.params.values()])


def _moved(optimizer: Optimizer) -> list[Tensor]:
    """The weights that a step can move, as `StepMatched` has them."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.numel() and p.requires_grad]


def _lengths(optimizer: Optimizer, control: Control) -> StackLengths:
    if control.norm == "function":
        raise NotStackableError("lengths are of the outputs, each replica's root on its own")
    groups = [
        number
        for number, group in enumerate(optimizer.param_groups)
        for p in group["params"]
        if p.numel() and p.requires_grad
    ]
    return StackLengths(_moved(optimizer), groups, control.norm, control.scope)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """A value for each replica, to be multiplied with its row of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.dim() - 1))


def _copy(to: Sequence[Tensor], of: Sequence[Tensor]) -> None:
    for x, y in zip(to, of, strict=True):
        x.copy_(y)
