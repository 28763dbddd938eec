"""The same run with weights of another length: lr, decay, weights, optimizer state and schedulers changed together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from truestep.core import warn
from truestep.core._around import kept_by
from truestep.core._sharding import local
from truestep.invariance.controls._groups import whole_groups

_GROUP_LRS: Final = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")  # the last four are schedulers' own
_LISTED_LRS: Final = ("base_lrs", "max_lrs", "min_lrs", "_last_lr")  # schedulers': one for each group


@dataclass(frozen=True, slots=True)
class Powers:
    """The powers of c that settings and state are multiplied with where the weights are multiplied with c."""

    lr: int
    weight_decay: int
    state: dict[str, int]
    eps: int = 0


def powers(optimizer: Optimizer, group: Mapping[str, Any]) -> Powers:
    r"""How a rule's settings follow its weights: a gradient at :math:`cw` is one at :math:`w` over c.

    Example:
        >>> optimizer = AdamW([torch.ones(2)])
        >>> powers(optimizer, optimizer.param_groups[0])
        Powers(lr=1, weight_decay=-1, state={'exp_avg': -1, 'exp_avg_sq': -2, 'max_exp_avg_sq': -2}, eps=-1)
    """
    if type(optimizer) is SGD:
        return Powers(2, -2, {"momentum_buffer": -1})
    if type(optimizer) not in (Adam, AdamW):
        found = type(optimizer).__name__
        msg = f"`optimizer` must be SGD, Adam or AdamW of torch.optim, found {found}: its powers of c are not known"
        raise ValueError(msg)
    decoupled = group.get("decoupled_weight_decay", type(optimizer) is AdamW)
    return Powers(1, -1 if decoupled else -2, {"exp_avg": -1, "exp_avg_sq": -2, "max_exp_avg_sq": -2}, eps=-1)


@torch.no_grad()
def rescale(optimizer: Optimizer, params: Mapping[str, Tensor], c: int | float, *, scheduler: Any = None) -> None:
    r"""Multiply scale-invariant weights by c, and all that must follow: the network goes on computing the same.

    .. math:: \text{SGD: } (\eta, \lambda, w, v) \to (c^2\eta, \lambda/c^2, cw, v/c), \qquad
        \text{AdamW: } (c\eta, \lambda/c, \epsilon/c), \qquad \text{Adam, decay in the gradient: }
        (c\eta, \lambda/c^2, \epsilon/c)

    So lr and weight decay of such weights mean nothing apart from the length of the weights; their product (for Adam
    with decay in the gradient, that with the weights' length) stays. Momentum, Nesterov and dampening included, the
    moments of Adam, gradients that are there, and the lrs that schedulers remember are changed with it.

    Args:
        optimizer: `torch.optim.SGD`, `Adam` or `AdamW`.
        params: The weights by name, all that their parameter groups hold; the loss must not see their norms.
        c: Positive factor; a power of two rounds nothing.
        scheduler: The lr scheduler on the optimizer, or a sequence of them (an empty one if none is used any more);
            each is rescaled once, those inside a `SequentialLR` or `ChainedScheduler` too. That none is given though
            there is one is noticed by the `initial_lr` that every `LRScheduler` leaves in the groups;
            `ReduceLROnPlateau` leaves nothing: do not forget it, its `min_lr` would stay where it was.

    Raises:
        ValueError: If the optimizer is another one, a group holds other weights, `c` is not positive, the optimizer
            has had a scheduler (its groups hold `initial_lr`) and none is given, a `UnitSphere` or `ExponentialTwin`
            keeps the weights' norms, or a scheduler has one `eta_min` for groups of which some stay.

    Note:
        Exact up to the norm layers' eps. An eps of Adam's that were not divided would matter where a gradient is
        almost zero. Settings are replaced, tensors too: capture a CUDA graph of the step afterwards. Of a scheduler
        that is not torch's own the lrs under torch's names are changed, and a warning says that others are not.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5, weight_decay=0.01)
        >>> rescale(optimizer, {"fc.weight": weight}, 10.0)
        >>> weight.tolist(), optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]
        ([30.0, 40.0], 50.0, 0.0001)

    References:
        Li & Arora, 2020; Li, Lyu & Arora, 2020, sec. 3 (SGD). Note: Deviation: the buffer and Adam's forms.
    """
    held = whole_groups(optimizer, params)
    if kept := kept_by(optimizer, "norms", params.values()):
        msg = f"`optimizer` must have no {kept[0]} on it, which keeps the weights' old length; close it, attach it anew"
        raise ValueError(msg)
    schedulers = [*{id(each): each for each in _schedulers(optimizer, held, scheduler)}.values()]
    if not 0 < c < torch.inf:
        msg = f"`c` must be a positive number, found {c}"
        raise ValueError(msg)
    rules = {index: powers(optimizer, optimizer.param_groups[index]) for index in held}
    for each in schedulers:
        _check_shared(each, held, len(optimizer.param_groups))
    _warn_of_foreign(schedulers)
    for each in schedulers:
        _rescale_scheduler(each, {index: c**rule.lr for index, rule in rules.items()})
    for index, rule in rules.items():
        _rescale_group(optimizer, optimizer.param_groups[index], rule, c)


def _rescale_group(optimizer: Optimizer, group: dict[str, Any], rule: Powers, c: int | float) -> None:
    for key in _GROUP_LRS:
        if key in group:
            group[key] = group[key] * c**rule.lr
    group["weight_decay"] = group["weight_decay"] * c**rule.weight_decay
    if rule.eps:
        group["eps"] = group["eps"] * c**rule.eps
    for p in group["params"]:
        local(p).mul_(c)
        if p.grad is not None:
            local(p.grad).div_(c)
        state: dict[str, Any] = optimizer.state.get(p, {})
        for key, power in rule.state.items():
            if state.get(key) is not None:
                local(state[key]).mul_(c**power)


def _schedulers(optimizer: Optimizer, held: list[int], scheduler: Any) -> list[Any]:
    """All schedulers, those inside others too, as often as they are reached.

    Raises where none is given though there was one, or where one belongs to another optimizer.
    """
    if scheduler is None and any("initial_lr" in optimizer.param_groups[index] for index in held):
        msg = (
            "`scheduler` must be given: `optimizer` has had one (its groups hold `initial_lr`), which would bring back "
            "the old lr, found None; pass it, or () if it is used no more"
        )
        raise ValueError(msg)
    found: list[Any] = []
    given: list[Any] = list(scheduler) if isinstance(scheduler, (list, tuple)) else [scheduler]
    for each in given:
        if each is None:
            continue
        if getattr(each, "optimizer", optimizer) is not optimizer:
            msg = f"`scheduler` must be one of `optimizer`, found a {type(each).__name__} of another"
            raise ValueError(msg)
        found += [each, *_schedulers(optimizer, [], getattr(each, "_schedulers", ()))]
    return found


def _check_shared(scheduler: Any, held: list[int], groups: int) -> None:
    if getattr(scheduler, "eta_min", 0.0) and len(held) < groups:
        msg = (
            f"`scheduler` must have eta_min=0 where some groups keep their lr, found {scheduler.eta_min} for all "
            f"{groups} groups; {len(held)} would be rescaled"
        )
        raise ValueError(msg)


def _warn_of_foreign(schedulers: list[Any]) -> None:
    """A subclass of torch's may keep a floor of its own under any name."""
    foreign = {type(each).__name__ for each in schedulers if not type(each).__module__.startswith("torch.optim.")}
    if foreign:
        message = (
            f"`scheduler` holds {', '.join(sorted(foreign))}, not torch's own: lrs that it keeps under other names (a "
            "floor, say) stay as they are; rescale them yourself"
        )
        warn(message, stacklevel=5)


def _rescale_scheduler(scheduler: Any, factors: Mapping[int, int | float]) -> None:
    for key in _LISTED_LRS:
        lrs = getattr(scheduler, key, None)
        if isinstance(lrs, list):
            setattr(scheduler, key, [lr * factors.get(index, 1) for index, lr in enumerate(lrs)])
    if getattr(scheduler, "eta_min", 0.0):
        scheduler.eta_min *= next(iter(factors.values()))
