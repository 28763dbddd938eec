"""The times of a model's scale-invariant blocks, parameter group by parameter group, or why a group has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose, isnan
from statistics import median_low
from typing import Any, Final

import torch
from torch import Tensor, nn

from truestep._user_function import UserError
from truestep.core import Gram, gram
from truestep.core._names import named_parameters
from truestep.core._preserved import preserved
from truestep.core._settings import group_settings
from truestep.invariance import Rule, TimeScales, gradient_size, time_scales
from truestep.invariance._equilibrium import GroupEquilibrium
from truestep.invariance._rule import KNOWN, group_rule
from truestep.invariance.symmetries._probe import Probe

Sizes = Mapping[str, tuple[float, int]]  # of a block's part: mean squared gradient at the unit sphere, elements
OWN: Final = 8  # batches at most that the gradient's size is measured on
LATER: Final = ("initial_lr", "max_lr")  # where torch's schedulers keep what the lr will be
MEASURED: Final = (
    "Adam with coupled decay: the times depend on the size of the gradient, measured on your batches (give them the "
    "run's own size) at the weights as they are now"
)
UNKNOWN: Final = (
    f"none are known for {{}}, only for {', '.join(KNOWN)}; if it wraps one of these, return the one inside"
)
AMSGRAD: Final = "none are known with amsgrad, whose largest second moment remembers the start; leave it out for times"


@dataclass(frozen=True, slots=True)
class Group:
    """A parameter group of one of the optimizers, and the names of the model's parameters in it."""

    name: str
    optimizer: str
    settings: dict[str, Any]
    params: tuple[str, ...]

    @property
    def weight_decay(self) -> float:
        """As the optimizer takes it; 0 where it knows none."""
        found = group_settings(self.settings)[1]
        return 0.0 if isnan(found) else found


@dataclass(frozen=True, slots=True)
class GroupTimes:
    """What is known of a group's times.

    Args:
        group: The group.
        alone: Its blocks that are scale invariant alone, which the times are for.
        lr: The lr that the times are for.
        reason: Why there are no times.
        times: The times; where each block has its own, those of the middle one.
        blocks: The times of each block, where each has its own.
        notes: What must be known about them, one sentence each.
    """

    group: Group
    alone: tuple[str, ...]
    lr: float
    reason: str | None = None
    times: TimeScales | None = None
    blocks: dict[str, TimeScales] = field(default_factory=dict[str, TimeScales])
    notes: tuple[str, ...] = ()


def groups_of(given: Any, model: nn.Module) -> list[Group]:
    """The parameter groups of an optimizer, or of a list, tuple or dict of them.

    Raises:
        UserError: If something else is given, or none holds a parameter of the model.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> (group,) = groups_of([torch.optim.SGD(model.parameters(), lr=0.1)], model)
        >>> group.name, group.params
        ('optimizer 0, parameter group 0', ('weight', 'bias'))
    """
    names = {id(p): name for name, p in named_parameters(model).items()}
    found: list[Group] = []
    for where, optimizer in _optimizers(given):
        for index, settings in enumerate(optimizer.param_groups):
            params = tuple(names[id(p)] for p in settings["params"] if id(p) in names)
            found.append(Group(f"{where}parameter group {index}", type(optimizer).__name__, settings, params))
    if not any(group.params for group in found):
        msg = "`optimizer` holds none of the model's parameters, as after a copy or where the model was built twice"
        raise UserError(f"{msg}: build it from the parameters of the model that you return")
    return found


def _optimizers(given: Any) -> list[tuple[str, Any]]:
    """Optimizers, each with what its groups' names begin with."""
    if isinstance(given, Mapping):
        found = [(f"{key}, ", one) for key, one in given.items()]
    elif isinstance(given, Sequence):
        found = [(f"optimizer {index}, ", one) for index, one in enumerate(given)]
    else:
        found = [("", given)]
    for _, one in found:
        if not hasattr(one, "param_groups"):
            msg = f"`optimizer` must be a torch optimizer, or a list, tuple or dict of them, found {type(one).__name__}"
            raise UserError(f"{msg}{' in it: leave that out' if one is not given else ''}")
    return found


def group_times(
    groups: Sequence[Group], labels: Mapping[str, str], alone: Mapping[str, str], steps: int, sizes: Callable[[], Sizes]
) -> list[GroupTimes]:
    """Times of every group over a run of `steps` steps, or the reason why it has none.

    Args:
        groups: The groups.
        labels: What was found about each block.
        alone: Those that are scale invariant alone.
        steps: Of the run.
        sizes: Measures the gradient's size for each block in `alone`; called only where it is needed.
    """
    return [_of_group(group, labels, tuple(p for p in group.params if p in alone), steps, sizes) for group in groups]


def _of_group(
    group: Group, labels: Mapping[str, str], alone: tuple[str, ...], steps: int, sizes: Callable[[], Sizes]
) -> GroupTimes:
    lr, notes = _lr(group.settings)
    rule = _rule(group, lr)
    if isinstance(rule, str) or not alone:
        return GroupTimes(group, alone, lr, reason=rule if isinstance(rule, str) else _no_block(group, labels))
    found = GroupEquilibrium(rule)
    if not rule.depends_on_gradient or found.grows:
        return GroupTimes(group, alone, lr, times=time_scales(found, steps), notes=notes)
    known = {name: sizes()[name] for name in alone if name in sizes()}
    blocks = {name: time_scales(found.measured(*size), steps) for name, size in known.items()}
    if not blocks:
        reason = "under Adam with coupled decay they depend on the gradient, and its blocks have none on your batches"
        return GroupTimes(group, alone, lr, reason=reason)
    middle = median_low(times.norm for times in blocks.values())
    name, times = next((name, times) for name, times in blocks.items() if times.norm == middle)
    return GroupTimes(group, alone, lr, times=times, blocks=blocks, notes=(*notes, _measured(name, blocks)))


def _lr(settings: dict[str, Any]) -> tuple[float, tuple[str, ...]]:
    """The lr that the times are for, and what to know about it: a warm-up may begin at 0."""
    lr = group_settings(settings)[0]
    later = max((group_settings({"lr": settings.get(key)})[0] for key in LATER if key in settings), default=0.0)
    if lr == 0 and later > 0:
        return later, (f"its lr is 0 now, as where a warm-up begins: the times are for {later:g}, what it is set to",)
    if later > 0 and not isclose(later, lr, rel_tol=1e-6):
        return lr, (f"the times are for its lr of now, {lr:g}, which a schedule moves; it is set to {later:g}",)
    return lr, ()


def _rule(group: Group, lr: float) -> Rule | str:
    """The rule of a group, or why no times follow from it."""
    product = lr * group.weight_decay
    reasons = (
        (not group.params, "it holds none of this model's parameters"),
        (group.optimizer not in KNOWN, UNKNOWN.format(group.optimizer)),
        (group.settings.get("amsgrad"), AMSGRAD),
        (not lr > 0, f"its lr is {lr:g}, at which nothing moves; return the optimizer with the lr of your run"),
        (product >= 1, f"lr times weight decay is {product:g}; from 1 on no weight is left after a step"),
    )
    for is_so, reason in reasons:
        if is_so:
            return reason
    try:
        return group_rule(group.optimizer, group.settings | {"lr": lr})
    except ValueError as error:  # settings that the class of this name does not have elsewhere
        return f"the settings of this {group.optimizer} are not those that are known: {error}"


def _no_block(group: Group, labels: Mapping[str, str]) -> str:
    joint = sum(labels.get(name) == "joint" for name in group.params)
    also = f" ({joint} of its blocks {'are' if joint > 1 else 'is'} joint, with others)" if joint else ""
    return f"they hold for blocks found invariant alone, and this group has none{also}"


def _measured(name: str, blocks: Mapping[str, TimeScales]) -> str:
    if len(blocks) == 1:
        return MEASURED
    norms = sorted(times.norm for times in blocks.values())
    spread = f"norm times go from {norms[0]:,.0f} to {norms[-1]:,.0f} steps"
    return f"{MEASURED}; below are those of {name}, the middle of {len(norms)} blocks, whose {spread}"


def gradient_sizes(
    model: nn.Module, batches: Sequence[Any], loss_fn: Callable[[Any, Any], Any], widths: Mapping[str, int]
) -> dict[str, tuple[float, int]]:
    r"""Size of the gradient, :math:`\mathbb{E}\|\nabla L(w/\|w\|)\|^2`, and elements, of a part of each block.

    The mean over parts that have a gradient; a block in which none has is left out. The model is left as it was.

    Args:
        model: The model, possibly wrapped.
        batches: Up to 8 are used.
        loss_fn: `loss_fn(model, batch)`.
        widths: Slices along dimension 0 in a part, by block.

    Example:
        >>> class Direction(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.tensor([0.0, 2.0]))
        >>> loss_fn = lambda model, x: x * nn.functional.normalize(model.weight, dim=0)[0]
        >>> gradient_sizes(Direction(), [1.0, 3.0], loss_fn, {"weight": 2})  # (1 + 9) / 2
        {'weight': (5.0, 2)}
    """
    params = {name: p for name, p in named_parameters(model).items() if p.requires_grad and p.numel()}
    seen: dict[str, list[Tensor]] = {name: [] for name in params if name in widths}
    with preserved(model):
        if not model.training:
            model.train()
        probe = Probe(model, params, batches, loss_fn, 0)
        for index in range(min(len(batches), OWN)):
            if probe.own(index) is None:
                continue  # not finite
            for w, g, name in zip(probe.parameters, probe.gradients, params, strict=True):
                if name in seen:
                    seen[name].append(_by_part(w, g, widths[name]))
    means = {name: torch.stack(sizes).mean(0) for name, sizes in seen.items() if sizes}
    return {
        name: (float(size[size > 0].mean()), params[name].numel() // size.numel())
        for name, size in means.items()
        if bool((size > 0).any())
    }


def _by_part(w: Tensor, g: Tensor, width: int) -> Tensor:
    w, g = (w[None], g[None]) if w.dim() == 0 else (w, g)
    units = gram(w, g, g, unit_dim=0).columns()
    return gradient_size(Gram.from_columns(units.unflatten(0, (-1, width)).sum(1))).cpu()
