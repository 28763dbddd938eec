"""What `watch` is given: named, checked, and refused in one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.core._names import named_parameters
from truestep.monitor._ledger import Number

LABELS: Final = ("unit", "group", "tensor", "joint", "no effect", "dead", "sensitive")
Optimizers = Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer]


@runtime_checkable
class Labelled(Protocol):
    """What gives each block a label, as a `truestep.invariance.Symmetries` does."""

    def labels(self) -> dict[str, str]:
        """Labels by name of the block."""
        ...


def held(optimizer: Optimizer) -> Iterable[Tensor]:
    """Parameters of an optimizer."""
    return (p for group in optimizer.param_groups for p in group["params"])


def named_optimizers(optimizer: Optimizers) -> dict[str, Optimizer]:
    """Optimizers by name: the user's, or the class, numbered where it occurs twice."""
    if isinstance(optimizer, Mapping):
        named = dict(optimizer)
    else:
        several = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        named: dict[str, Optimizer] = {}
        for one in several:
            kind = type(one).__name__
            named[kind if kind not in named else f"{kind}[{len(named)}]"] = one
    if not named:
        msg = "`optimizer` is empty; pass the optimizer that steps this model, or several"
        raise ValueError(msg)
    return named


def checked_parameters(model: nn.Module, units: Iterable[str]) -> dict[str, Tensor]:
    parameters = named_parameters(model)
    if not parameters:
        msg = f"`model` ({type(model).__name__}) has no parameters, so there is no step to watch"
        raise ValueError(msg)
    unknown = [name for name in units if name not in parameters]
    if unknown:
        msg = f"`units` names no parameter of the model: {unknown}; names are such as {list(parameters)[:3]}"
        raise ValueError(msg)
    return parameters


def checked_symmetries(model: nn.Module, symmetries: Mapping[str, str] | Labelled | None) -> dict[str, str]:
    """Labels by name of the block; raises where a name or a label is unknown, which would be kept and say nothing."""
    labels = symmetries.labels() if isinstance(symmetries, Labelled) else dict(symmetries or {})
    parameters = named_parameters(model)
    if unknown := [name for name in labels if name not in parameters]:
        msg = f"`symmetries` names no parameter of the model: {unknown}; names are such as {list(parameters)[:3]}"
        raise ValueError(msg)
    if wrong := sorted(set(labels.values()).difference(LABELS)):
        raise ValueError(f"`symmetries` must give each block one of {', '.join(LABELS)}, found {', '.join(wrong)}")
    return labels


def number_or_scalar(value: Any, name: str) -> Number | None:
    """A Python number, or a tensor of one element that is read later: nothing waits for a GPU here."""
    if value is None or type(value) in (int, float):
        return value
    if not isinstance(value, Tensor):
        try:
            return value.__float__()  # not float(): a word is no number
        except (AttributeError, TypeError, ValueError):
            msg = f"`{name}` must be one number, found a {type(value).__name__}; pass its mean"
            raise ValueError(msg) from None
    if value.numel() != 1:
        msg = f"`{name}` must be one number, found a tensor of shape {tuple(value.shape)}; pass its mean"
        raise ValueError(msg)
    if value.device.type != "cpu":  # a copy: what the loop does to its tensor afterwards is not seen
        return value.detach().to(torch.float64, copy=True).reshape(())
    return value.item()
