r"""The step's scale: what the gradient of a summed loss is multiplied by.

With :math:`G = \sum_i \nabla(w_i \ell_i)`, :math:`S = \sum_i w_i \ell_i` and the denominator :math:`W`, all sums over
micro-batches and ranks, every factor :math:`f(S, W, \|G\|)` gives a gradient that no cut of the batch can change.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

Scale = Literal["mean", "ref", "unit", "sqrt", "ngd"]
Scalar = Float64[Tensor, ""]


def step_factor(scale: Scale, loss: Scalar, weight: Scalar, other: Scalar | None = None) -> Scalar:
    r"""Factor that turns the gradient of the sum into the gradient to step with; 0 where there is none.

    =======  ==============================  =================================================
    `scale`  factor                          step of plain SGD
    =======  ==============================  =================================================
    mean     :math:`1/W`                     down the mean loss
    ref      :math:`1/(W r)`                 down the mean loss in units of a frozen reference
    unit     :math:`1/S`                     down :math:`\log S`
    sqrt     :math:`1/\sqrt{S W}`            down :math:`2\sqrt{S/W}`, the root of the mean loss
    ngd      :math:`1/\|G\|`                 of length lr, whatever the loss
    =======  ==============================  =================================================

    Args:
        scale: One of the above.
        loss: The sum :math:`S`.
        weight: The denominator :math:`W`.
        other: The reference :math:`r` for "ref", the norm :math:`\|G\|` for "ngd".

    Example:
        >>> step_factor("sqrt", *torch.tensor([8.0, 2.0], dtype=torch.float64))
        tensor(0.2500, dtype=torch.float64)
    """
    if scale == "mean":
        divisor = weight
    elif scale == "unit":
        divisor = loss
    elif scale == "sqrt":
        divisor = (loss * weight).sqrt()
    else:
        assert other is not None
        divisor = other * weight if scale == "ref" else other
    good = (weight > 0) & (divisor > 0) & torch.isfinite(divisor)
    return torch.where(good, 1.0 / divisor, 0.0)


def power_of_two(weight: Scalar) -> Scalar:
    """The power of two between 1/`weight` and half of it, exact: to multiply by it rounds nothing."""
    mantissa, _ = torch.frexp(weight)
    return mantissa / weight


def as_scalar(x: int | float | Tensor, like: Tensor) -> Scalar:
    """`x` in float64 on the device of `like`."""
    if isinstance(x, Tensor):
        return x.detach().to(like.device, torch.float64)
    return torch.full((), x, dtype=torch.float64, device=like.device)
