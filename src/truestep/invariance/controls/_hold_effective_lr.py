"""A scheduler that keeps the effective lr where it is chosen, whatever the norms do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float64
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from truestep.core import squared_norm
from truestep.invariance.controls._hold import AbstractHold


class HoldEffectiveLR(AbstractHold):
    r"""Sets lr before each step so that the direction of the weights has the lr that is chosen.

    .. math:: \text{SGD: } \eta_t = \alpha\,\|w_t\|^2, \qquad \text{Adam, AdamW: } \eta_t = \alpha\,\|w_t\|

    For SGD :math:`\alpha` is the `effective_lr`, and momentum is not in it; for Adam, whose step does not scale with
    the gradient, the relative lr. A parameter group has one lr and is seen as one block, :math:`\|w\|^2` the sum over
    its weights: give each tensor a group of its own to hold it for each. For each unit, see `UnitSphere`.

    It sets lr in the group as a scheduler does, for loggers to see. A scheduler on the same optimizer keeps its say in
    the other groups; in these each step sets lr anew.

    Args:
        optimizer: `torch.optim.SGD`, `Adam` or `AdamW`.
        params: The weights by name, all that their parameter groups hold.
        effective_lr: :math:`\alpha > 0`; may be set between steps.

    Raises:
        ValueError: If the optimizer is another one, a group holds other weights, `effective_lr` is not positive (in
            a loaded state too), or another hold or an `ExponentialTwin` sets their lr already.

    Note:
        A lr in plain numbers costs one read of the device a step; with `lr=torch.tensor(...)` on the device nothing
        waits.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> hold = HoldEffectiveLR(optimizer, {"fc.weight": weight}, 0.01)
        >>> optimizer.step()
        >>> optimizer.param_groups[0]["lr"]
        0.25

    References:
        van Laarhoven, 2017, eq. 5, read the other way round.
    """

    _cause: ClassVar[str] = "the weights' norm is 0 or not finite"

    def __init__(self, optimizer: Optimizer, params: Mapping[str, Tensor], effective_lr: int | float) -> None:
        if type(optimizer) not in (SGD, Adam, AdamW):
            found = type(optimizer).__name__
            msg = f"`optimizer` must be SGD, Adam or AdamW of torch.optim, found {found}: its effective lr is not known"
            raise ValueError(msg)
        self._squared = type(optimizer) is SGD
        super().__init__(optimizer, params, effective_lr, "before")

    @property
    def effective_lr(self) -> int | float:
        """What is held from the next step on."""
        return self._target

    @effective_lr.setter
    def effective_lr(self, value: int | float) -> None:
        self._target = self._checked(value)

    @staticmethod
    def _checked(target: int | float) -> int | float:
        if not 0 < target < float("inf"):
            msg = f"`effective_lr` must be a positive number, found {target}"
            raise ValueError(msg)
        return target

    def _lr(self, group: dict[str, Any]) -> Float64[Tensor, ""]:
        square = squared_norm(group["params"])
        return self._target * (square if self._squared else square.sqrt())
