"""Optimizers not yet built: a function from weights to an optimizer, and what can be read off it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.compare._sign_sgd import SignSGD

OptimizerFactory = Callable[[Any], Optimizer]
"""Gives the optimizer of these weights. In a sweep a `functools.partial` of an importable class or function."""

_FULL_LENGTH: Final = (SignSGD, getattr(torch.optim, "Muon", SignSGD))  # torch has Muon since 2.9
_SHAPES: Final = ([(1,)], [(1, 1)], [(1, 1), (1,)])  # Muon takes matrices alone, and a factory may want both


def scaled(optimizer: Optimizer, multiplier: int | float) -> Optimizer:
    r"""Multiply the lr of every group, and hold its weight decay: :math:`\eta \leftarrow c\,\eta`.

    Also the `initial_lr` from which a scheduler starts. Decoupled decay takes lr x weight_decay of the weights, and
    gets stronger with lr.

    Returns:
        The same optimizer.

    Raises:
        ValueError: If `multiplier` is negative or not finite.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.AdamW([torch.zeros(1)], lr=0.5, weight_decay=0.125)
        >>> group = scaled(optimizer, 4).param_groups[0]
        >>> group["lr"], group["weight_decay"]
        (2.0, 0.125)
    """
    if not 0 <= multiplier < math.inf:
        raise ValueError(f"`multiplier` must be 0 or more and finite, found {multiplier}")
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] = group[name] * multiplier
    return optimizer


def describe(factory: OptimizerFactory) -> str:
    """The class's or function's name, and the arguments that a `functools.partial` gives it.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> describe(partial(torch.optim.Adam, lr=1e-3, eps=1e-16)), describe(torch.optim.SGD)
        ('Adam(lr=0.001, eps=1e-16)', 'SGD')
    """
    if not isinstance(factory, partial):
        return _name(factory)
    given = [_written(value) for value in factory.args]
    given += [f"{name}={_written(value)}" for name, value in factory.keywords.items()]
    return f"{_name(factory.func)}({', '.join(given)})" if given else _name(factory.func)


def lr_of(factory: OptimizerFactory) -> float:
    """Lr of the first group, in the optimizer's own unit.

    Raises:
        ValueError: If the groups have none.

    Example:
        >>> import torch
        >>> lr_of(torch.optim.Adam)
        0.001
    """
    group = rehearsed(factory).param_groups[0]
    if "lr" not in group:
        raise ValueError(f"`factory` must give an optimizer whose groups have an lr, found {sorted(group)}")
    return float(group["lr"])


def largest_momentum(factory: OptimizerFactory) -> float:
    r"""The largest momentum with which a rule's steps build up; 0 where none do.

    A heavy ball that starts from nothing comes to its full step only after about :math:`\beta / (1-\beta)` steps: SGD's
    momentum, and RMSprop's. Adam's average is corrected for its start, a sign or Muon's orthogonal step has one length
    whatever the average: these take full steps from the first on.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> momentum = partial(torch.optim.SGD, lr=1.0, momentum=0.8)
        >>> [largest_momentum(factory) for factory in (momentum, torch.optim.AdamW, torch.optim.RMSprop)]
        [0.8, 0.0, 0.0]
    """
    optimizer = rehearsed(factory)
    if isinstance(optimizer, _FULL_LENGTH):
        return 0.0
    found = [group.get("momentum") for group in optimizer.param_groups]
    return max((float(beta) for beta in found if isinstance(beta, int | float | Tensor)), default=0.0)


def rehearsed(factory: OptimizerFactory) -> Optimizer:
    """The optimizer of a weight or two that nobody trains.

    Raises:
        ValueError: If the factory refuses them.
    """
    refused: Exception | None = None
    for shapes in _SHAPES:
        try:
            return factory([nn.Parameter(torch.zeros(shape)) for shape in shapes])
        except Exception as error:  # noqa: BLE001 - an optimizer's own check may raise anything
            refused = refused or error
    msg = f"`factory` must give an optimizer for a list of parameters, {describe(factory)} raised {refused!r}"
    raise ValueError(msg) from refused


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or type(function).__name__


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return _name(value) if callable(value) and not isinstance(value, Tensor) else repr(value)
