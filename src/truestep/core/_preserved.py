"""Running a user's model as if it had never run."""

from __future__ import annotations

import random
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(slots=True)
class Preserved:
    """Whether the parameters had been changed; known when `preserved` has ended."""

    changed: bool = False


@contextmanager
def preserved(model: nn.Module) -> Generator[Preserved, None, None]:
    """Put back parameters, gradients, buffers, modes and random state, also after an exception.

    Meanwhile every `.grad` is None; gradients come back as the same tensors with the same values. Random state is that
    of Python, numpy (where it is imported), torch and CUDA; a Generator that a module holds is not put back.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout())
        >>> with preserved(model):
        ...     _ = model.eval().train()(torch.randn(4, 2)).sum().backward()
        >>> model[0].weight.grad, int(model[0].num_batches_tracked)
        (None, 0)
    """
    told = Preserved()
    randomness = _random_state()
    modes = {module: module.training for module in model.modules()}
    buffers = [(module, dict(vars(module)["_buffers"])) for module in model.modules()]
    held = [_Held(x) for x in (*model.parameters(), *model.buffers())]
    gradients = [(p, p.grad, None if p.grad is None else _Held(p.grad)) for p in model.parameters()]
    num_parameters = len(gradients)
    for p, _, _ in gradients:
        p.grad = None
    try:
        yield told
    finally:
        told.changed = any([one.put_back() for one in held][:num_parameters])
        for module, own in buffers:
            vars(module)["_buffers"].update(own)
        for p, grad, values in gradients:
            if values is not None:
                values.put_back()
            p.grad = grad
        for module, training in modes.items():
            module.training = training
        _set_random_state(randomness)


class _Held:
    """A tensor and a copy of what it held."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.version = x, x._version
        self.values = x.detach().clone()

    @torch.no_grad()
    def put_back(self) -> bool:
        """Copy the values back if they have changed; whether they had."""
        x, values = self.x.detach(), self.values
        if x.layout != torch.strided:  # a sparse gradient
            changed = x._version != self.version
        else:  # not by its version: what is done to `p.data` leaves no trace there
            changed = not bool(((x == values) | ((x != x) & (values != values))).all())  # noqa: PLR0124
        if changed:
            x.copy_(values)
        return changed


def _random_state() -> tuple[Any, ...]:
    numpy = sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy else None
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), drawn, torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Any, ...]) -> None:
    python, drawn, cpu, cuda = state
    random.setstate(python)
    if drawn is not None:
        sys.modules["numpy"].random.set_state(drawn)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
