"""A scheduler that turns the weights by the same angle at each step."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan, pi, tan
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import SGD, Optimizer

from truestep.core import Gram, gram
from truestep.core._sharding import add_shards, local, shards
from truestep.invariance.controls._hold import AbstractHold

Number = int | float | Float64[Tensor, ""]
_ALONG: Final = 1e-14  # of a step's square: what rounding leaves across the weight of a step along it


def turning_lr(step: Gram, angle: int | float) -> Float64[Tensor, "*blocks"]:
    r"""The lr at which a step :math:`-\eta u` turns w by `angle`, in radians; `step` has u in the place of d.

    .. math:: \eta = \frac{\tan\theta\,\|w\|}{\|u_\perp\| + \tan\theta\,\langle w, u\rangle/\|w\|}

    Negative or infinite where no lr does: the step lengthens w so much that even a long one turns it by less. nan for
    a step that shortens w alone (decay), or none: the lr of the formula would bring w to 0.

    Example:
        >>> w, u = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
        >>> turning_lr(gram(w, u, u), torch.pi / 4)
        tensor(0.5000, dtype=torch.float64)
    """
    norm = step.ww.sqrt()
    square = (step.dd - step.wd**2 / step.ww).clamp_min(0.0)
    shortens = (square <= _ALONG * step.dd) & (step.wd >= 0)
    across = torch.where(shortens, nan, square).sqrt()
    return tan(angle) * norm / (across + tan(angle) * step.wd / norm)


def sgd_direction(
    step: Gram, weight_decay: Number, momentum: int | float, *, dampening: int | float = 0.0, nesterov: bool = False
) -> Gram:
    r"""The Gram with what SGD is about to subtract, over lr, in the place of d; `step` has the momentum buffer there.

    .. math:: v' = \mu v + (1 - \tau)(g + \lambda w), \qquad u = v' \text{ or, with Nesterov, } g + \lambda w + \mu v'
    """
    x, y = (1 - dampening, momentum) if momentum else (1.0, 0.0)
    x, y = (1 + momentum * x, momentum * y) if nesterov else (x, y)
    decay = weight_decay
    fresh = step.gg + 2 * decay * step.wg + decay**2 * step.ww  # |g + decay w|²
    crossed = step.gd + decay * step.wd
    wu = x * (step.wg + decay * step.ww) + y * step.wd
    gu = x * (step.gg + decay * step.wg) + y * step.gd
    return Gram(step.ww, step.wg, wu, step.gg, gu, x**2 * fresh + 2 * x * y * crossed + y**2 * step.dd)


class HoldAngle(AbstractHold):
    r"""Sets SGD's lr before each step so that the step turns the weights by the angle that is chosen, exactly.

    .. math:: \eta_t = \frac{\tan\theta\,\|w\|}{\|u_\perp\| + \tan\theta\,\langle w, u\rangle/\|w\|}

    with u what SGD is about to subtract over lr, momentum and coupled decay in it. Read from weight, gradient and
    buffer, no step is taken twice. A parameter group has one lr and is seen as one block: give each tensor a group of
    its own to turn each by the angle.

    It sets lr in the group as a scheduler does, for loggers to see. A scheduler on the same optimizer keeps its say in
    the other groups; in these each step sets lr anew. Holds for any weight; only for a scale-invariant one the angle
    is the whole step.

    Args:
        optimizer: `torch.optim.SGD`, with any of its settings.
        params: The weights by name, all that their parameter groups hold.
        angle: :math:`\theta` in radians, between 0 and pi/2; may be set between steps.

    Raises:
        ValueError: If the optimizer is no SGD, a group holds other weights, `angle` is out of its range (in a loaded
            state too), or another hold or an `ExponentialTwin` sets their lr already.

    Note:
        Without decay the norm of a scale-invariant weight grows by :math:`1/\cos\theta` a step, and lr with its square.
        With momentum a growing lr lets the old buffer dominate: the weights come to lie along it, and no lr turns them
        by the angle any more. Such steps are taken with the last lr, counted in `missed`, and the first one warns; the
        norm runs away. Put a `UnitSphere` on the same weights, or give them weight decay: the norm stays in bounds, and
        misses are rare as long as :math:`\theta/(1-\mu)`, the turn that the buffer remembers, is small.

        A gradient of zero leaves lr as it was and is no miss. A lr in plain numbers costs one read of the device a
        step; with `lr=torch.tensor(...)` on the device nothing waits, and the warning comes once `missed` is read.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 0.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> hold = HoldAngle(optimizer, {"fc.weight": weight}, torch.pi / 4)
        >>> weight.grad = torch.tensor([0.0, -30.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([3., 3.])

    References:
        Kosson, Messmer & Jaggi, 2024, "Rotational equilibrium", who turn by the average angle of an equilibrium.
        Note: Deviation: each step by the same angle, through lr.
    """

    _cause: ClassVar[str] = (
        "no lr turns the weights by `angle`, for momentum lengthens them too much; put a `UnitSphere` on them or give "
        "them weight decay, else take a smaller angle or less momentum"
    )

    def __init__(self, optimizer: Optimizer, params: Mapping[str, Tensor], angle: int | float) -> None:
        if type(optimizer) is not SGD:
            found = type(optimizer).__name__
            msg = f"`optimizer` must be torch.optim.SGD, found {found}: its step is not known before it is taken"
            raise ValueError(msg)
        super().__init__(optimizer, params, angle, "ready")

    @property
    def angle(self) -> int | float:
        """What is held from the next step on, in radians."""
        return self._target

    @angle.setter
    def angle(self, value: int | float) -> None:
        self._target = self._checked(value)

    @staticmethod
    def _checked(target: int | float) -> int | float:
        if not 0 < target < pi / 2:
            msg = f"`angle` must be in radians between 0 and pi/2, found {target}"
            raise ValueError(msg)
        return target

    def _lr(self, group: dict[str, Any]) -> Float64[Tensor, ""]:
        columns = [self._direction(p, group).columns().reshape(1, 6) for p in group["params"]]
        summed = add_shards(columns, [shards(p) for p in group["params"]])
        device = summed[0].device
        block = Gram.from_columns(torch.cat([column.to(device) for column in summed])).sum()
        return turning_lr(block, self._target)

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Gram:
        w = local(p)
        if p.grad is None:
            return gram(w, torch.zeros_like(w), torch.zeros_like(w))
        buffer: Tensor | None = self._optimizer.state.get(p, {}).get("momentum_buffer")
        g = local(p.grad)
        found = gram(w, g, torch.zeros_like(w) if buffer is None else local(buffer))
        scale: Any = getattr(self._optimizer, "grad_scale", None)  # of a gradient scaler, which a fused step divides by
        scale = (1.0 if scale is None else scale.to(w.device).double()) * (-1.0 if group["maximize"] else 1.0)
        true = Gram(found.ww, found.wg / scale, found.wd, found.gg / scale**2, found.gd / scale, found.dd)
        decay: Any = group["weight_decay"]
        decay = decay.to(w.device).double().reshape(()) if isinstance(decay, Tensor) else decay
        dampening = 0.0 if buffer is None else group["dampening"]
        return sgd_direction(true, decay, group["momentum"], dampening=dampening, nesterov=group["nesterov"])
