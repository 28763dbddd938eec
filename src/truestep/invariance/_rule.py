"""What a parameter group does with its gradients: the kind of rule, and the settings that an equilibrium depends on."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Final, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.core._settings import group_settings

Number = int | float | Float[Tensor, "..."]
Family = Literal["sgd", "adam", "lion"]

# Exact names of classes: a subclass may do something else with the same settings. False: decay in the gradient.
KNOWN: Final[dict[str, tuple[Family, bool]]] = {
    "SGD": ("sgd", False),
    "SGDW": ("sgd", True),
    "Adam": ("adam", False),
    "AdamW": ("adam", True),
    "Lion": ("lion", True),
}


def rules(optimizer: Optimizer) -> tuple[Rule, ...]:
    """The rule of each parameter group, read from the optimizer's class and its settings as they are now.

    Known by the name of their class: SGD, Adam and AdamW of torch; SGDW and Lion, which torch does not have, as they
    are written elsewhere (`betas`, `weight_decay` and `lr` in the group).

    Raises:
        ValueError: If the class is none of these, or a group has `amsgrad`, whose steps have no equilibrium formula.

    Example:
        >>> (rule,) = rules(torch.optim.SGD([torch.zeros(2)], lr=0.1, momentum=0.9, weight_decay=5e-3))
        >>> rule.family, rule.lr, rule.momentum, rule.decoupled
        ('sgd', 0.1, 0.9, False)
    """
    return tuple(group_rule(type(optimizer).__name__, group) for group in optimizer.param_groups)


def group_rule(name: str, group: dict[str, Any]) -> Rule:
    """The rule of one parameter group of an optimizer of the class `name`.

    Raises:
        ValueError: What `rules` says.

    Example:
        >>> group_rule("AdamW", {"lr": 0.5, "betas": (0.75, 0.875), "weight_decay": 0.1}).step_lr
        tensor(0.1250, dtype=torch.float64)
    """
    if name not in KNOWN:
        msg = (
            f"`optimizer` must be of a class with a known equilibrium ({', '.join(KNOWN)}), found {name}: "
            "pass a `Rule` with its settings, or the optimizer inside it if it is a wrapper"
        )
        raise ValueError(msg)
    family, decoupled = KNOWN[name]
    if group.get("amsgrad"):
        msg = "`optimizer` must not use amsgrad: its largest second moment remembers the start, found amsgrad=True"
        raise ValueError(msg)
    lr, weight_decay, momentum, beta1, beta2, _ = group_settings(group)
    memory = momentum if family == "sgd" else beta1
    return Rule(
        family,
        lr=lr,
        weight_decay=0.0 if isnan(weight_decay) else weight_decay,
        momentum=0.0 if isnan(memory) else memory,
        beta2=beta2,
        decoupled=bool(group.get("decoupled_weight_decay", decoupled)),
        nesterov=family == "sgd" and bool(group.get("nesterov")),
        dampening=float(group.get("dampening") or 0.0) if family == "sgd" else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Rule:
    r"""The settings of a rule that decide what weight decay and steps do to a scale-invariant weight.

    Args:
        family: "sgd": the step is proportional to the gradient. "adam": to the gradient over its own size, weight by
            weight. "lion": the sign of a mean of gradients.
        lr: Learning rate, :math:`\eta`; a number, or a tensor with one for each block.
        weight_decay: :math:`\lambda`, as the optimizer takes it.
        momentum: Decay of what remembers the gradients: SGD's momentum :math:`\mu` (torch's form,
            :math:`v \leftarrow \mu v + g`), Adam's and Lion's :math:`\beta_1`.
        beta2: Adam's and Lion's :math:`\beta_2`; Lion alone needs it here.
        decoupled: Whether the decay multiplies the weights by :math:`1-\eta\lambda` beside the step, as AdamW's does;
            otherwise it is added to the gradient.
        nesterov: SGD's Nesterov momentum.
        dampening: SGD's dampening, which divides the lr in all but name.

    Raises:
        ValueError: If the family does not have a setting.

    Example:
        >>> rule = Rule("lion", lr=1e-4, weight_decay=1.0, momentum=0.9, beta2=0.99, decoupled=True)
        >>> rule.step_lr
        tensor(0.0001, dtype=torch.float64)
    """

    family: Family
    lr: Number
    weight_decay: Number = 0.0
    momentum: Number = 0.0
    beta2: Number = nan
    decoupled: bool = False
    nesterov: bool = False
    dampening: Number = 0.0

    def __post_init__(self) -> None:
        if self.family == "lion" and (not self.decoupled or bool(as_float64(self.beta2).isnan().any())):
            msg = f"`rule` lion needs `decoupled=True` and `beta2`, found {self.decoupled} and {self.beta2}"
            raise ValueError(msg)
        if self.nesterov and (self.family != "sgd" or bool((as_float64(self.dampening) != 0).any())):
            msg = f"`nesterov` is a setting of sgd without dampening, found it with {self.family}, {self.dampening}"
            raise ValueError(msg)

    @property
    def depends_on_gradient(self) -> bool:
        """Whether its angle depends on the size of the gradient: for Adam with decay in the gradient alone."""
        return self.family == "adam" and not self.decoupled

    @property
    def step_lr(self) -> Float64[Tensor, "..."]:
        r"""What multiplies a fresh gradient: :math:`\eta`, with dampening :math:`\eta(1-\tau)`, for Adam
        :math:`\eta(1-\beta_1)`.
        """  # noqa: D205
        lr, momentum = as_float64(self.lr), as_float64(self.momentum)
        if self.family == "adam":
            return lr * (1 - momentum)
        if self.family == "lion":
            return lr
        return torch.where(momentum != 0, lr * (1 - as_float64(self.dampening)), lr)  # torch: none without a buffer


def as_float64(value: Number) -> Float64[Tensor, "..."]:
    """A number or tensor as a float64 tensor on its device."""
    return torch.as_tensor(value, dtype=torch.float64)
