"""How far a recorded run is from the equilibrium of its scale-invariant weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import nan

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.core import Asked, Step
from truestep.invariance._equilibrium import GroupEquilibrium
from truestep.invariance._formulas import angular_update
from truestep.invariance._growth import gradient_size
from truestep.invariance._rule import Rule, rules


def distance(
    steps: Iterable[Step], optimizer: Optimizer | Rule, *, last: int = 100, params: Mapping[str, Tensor] | None = None
) -> Distance:
    r"""Angle taken over the equilibrium's angle, and the norm times that have gone by, for each block of a run.

    .. math:: \sqrt{\textstyle\sum_t \theta_t^2 \big/ \sum_t \theta_{\text{eq},t}^2}, \qquad
        \textstyle\sum_t 1/T_{\text{norm},t}

    Each step counts with the lr and weight decay that were asked of it, so schedules and groups are seen. A recorded
    step stands for the ones after it that were not. Above 1 the block turns faster than it will (its norm is still
    too small), below 1 slower. Of a block that is not scale invariant the figure says nothing.

    Args:
        steps: Recorded steps of one optimizer, in their order, of blocks or units; skipped ones are passed over.
        optimizer: The optimizer of the run, all its groups of one kind, or a `Rule` of that kind; only the kind, Lion's
            and Adam's too, and SGD's dampening are read: lr, weight decay, momentum and betas are the steps' own.
        last: Number of recorded steps, the last ones, over which angles and the gradient's size are averaged.
        params: Parameters by name; of Adam and Lion it gives the number of elements that the norm asks for, and under
            Adam with coupled decay everything asks for. Without it those are nan.

    Raises:
        ValueError: If there is no step, the steps are of several optimizers or of changing blocks, the optimizer's
            groups are not of one kind, or its class has no known equilibrium.

    Example:
        >>> from truestep.core import Recorder
        >>> weight, steps = torch.nn.Parameter(torch.tensor([0.0, 2.0])), []
        >>> optimizer = torch.optim.SGD([weight], lr=0.125, weight_decay=0.5)
        >>> recorder = Recorder({"weight": weight}, optimizer, steps.append)
        >>> for _ in range(40):
        ...     optimizer.zero_grad()
        ...     torch.nn.functional.normalize(weight, dim=0)[0].backward()
        ...     optimizer.step()
        >>> found = distance(steps, optimizer)
        >>> found.names, found.elapsed
        (('weight',), tensor([10.], dtype=torch.float64))
    """
    kind = _kind(optimizer)
    kept = [step for step in steps if not step.skipped]
    _check(kept, last)
    gaps = [after.index - step.index for step, after in pairwise(kept)] + [1]
    numel = _numel(kept[-1].names, params)
    elapsed = torch.zeros(len(kept[-1].names), dtype=torch.float64)
    squared, expected, size = elapsed.clone(), elapsed.clone(), elapsed.clone()
    for step in (window := kept[-last:]):
        size += gradient_size(step.took) / len(window)
    for number, (step, gap) in enumerate(zip(kept, gaps, strict=True)):
        of_step = GroupEquilibrium(_asked(kind, step.asked), gradient_size(step.took), numel)
        elapsed += gap / of_step.norm_time
        if number >= len(kept) - last:
            squared += angular_update(step.took) ** 2 / len(window)
            expected += of_step.measured(size).angle ** 2 / len(window)
    end = GroupEquilibrium(_asked(kind, kept[-1].asked), size, numel)
    names, norm = kept[-1].names, kept[-1].took.weight_norm
    return Distance(names, squared.sqrt(), expected.sqrt(), norm, end.norm, elapsed)


@dataclass(frozen=True, slots=True)
class Distance:
    """How far each block is from equilibrium, at the end of the steps.

    Args:
        names: Blocks or units.
        angle: Rms angle a step that was taken, in radians.
        equilibrium_angle: That of the equilibrium, for the settings of the same steps.
        norm: Norm before the last step.
        equilibrium_norm: That of the equilibrium, from the gradients of the same steps; nan for Adam and Lion where
            the number of elements was not given.
        elapsed: Norm times from the first recorded step to the last: about 3 are enough to be in equilibrium.
    """

    names: tuple[str, ...]
    angle: Float64[Tensor, " blocks"]
    equilibrium_angle: Float64[Tensor, " blocks"]
    norm: Float64[Tensor, " blocks"]
    equilibrium_norm: Float64[Tensor, " blocks"]
    elapsed: Float64[Tensor, " blocks"]

    @property
    def ratio(self) -> Float64[Tensor, " blocks"]:
        """Angle taken over that of the equilibrium: 1 in equilibrium, inf without weight decay."""
        return self.angle / self.equilibrium_angle

    def __str__(self) -> str:
        """A row for each block: angles in mrad a step, norms, and the norm times that have gone by."""
        width = max(map(len, self.names))
        columns = (1e3 * self.angle, 1e3 * self.equilibrium_angle, self.ratio, self.norm, self.equilibrium_norm)
        head = ("angle, mrad", "equilibrium", "ratio", "norm", "equilibrium", "norm times")
        rows = torch.stack([*columns, self.elapsed], 1).tolist()
        told = [
            f"{name:{width}}" + "".join(f"{x:>13.3g}" for x in row) for name, row in zip(self.names, rows, strict=True)
        ]
        return "\n".join([" " * width + "".join(f"{x:>13}" for x in head), *told])

    @property
    def norm_ratio(self) -> Float64[Tensor, " blocks"]:
        """Norm over that of the equilibrium, which moves with the size of the gradient."""
        return self.norm / self.equilibrium_norm


def _kind(optimizer: Optimizer | Rule) -> Rule:
    found = (optimizer,) if isinstance(optimizer, Rule) else rules(optimizer)
    kinds = {(rule.family, rule.decoupled, rule.nesterov, str(rule.dampening)) for rule in found}
    if len(kinds) > 1:
        msg = f"`optimizer` must have groups of one kind, found {sorted(kinds)}: give steps and rule of each by itself"
        raise ValueError(msg)
    return found[0]


def _check(steps: list[Step], last: int) -> None:
    if not steps or last < 1:
        msg = f"`steps` must hold a step that was taken and `last` be positive, found {len(steps)} and {last}"
        raise ValueError(msg)
    if len(names := {step.optimizer for step in steps}) > 1:
        msg = f"`steps` must be of one optimizer, found {sorted(names)}: choose by `step.optimizer`"
        raise ValueError(msg)
    for step in steps:
        if step.names != steps[-1].names:
            msg = f"`steps` must all have the blocks of the last one, step {step.index} has others: leave those out"
            raise ValueError(msg)


def _asked(kind: Rule, asked: Asked) -> Rule:
    """The rule with what was asked of each block; a setting that a rule does not have is nan there and 0 here."""
    memory = asked.momentum if kind.family == "sgd" else asked.beta1
    weight_decay, memory = asked.weight_decay.nan_to_num(nan=0.0), memory.nan_to_num(nan=0.0)
    return replace(kind, lr=asked.lr, weight_decay=weight_decay, momentum=memory, beta2=asked.beta2)


def _numel(names: tuple[str, ...], params: Mapping[str, Tensor] | None) -> Float64[Tensor, " blocks"]:
    """Elements of each block, or of each unit `"fc.weight[3]"`; nan where `params` does not have it."""
    found: list[float] = []
    for name in names:
        block = (params or {}).get(name.split("[")[0])
        found.append(nan if block is None else block.shape[1:].numel() if name.endswith("]") else block.numel())
    return torch.tensor(found, dtype=torch.float64)
