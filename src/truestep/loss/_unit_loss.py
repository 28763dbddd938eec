"""A loss divided by itself: gradient descent on its logarithm, whatever unit the loss is written in."""

from __future__ import annotations

import ctypes
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from truestep.core import warn

_NEGATIVE: Final = (
    "unit_loss got a negative loss: dividing by it would climb, so this loss gives a zero gradient and the value nan. "
    'A loss with a sign has no unit of its own to divide by: use Tally(scale="ref")'
)
_PER_SAMPLE: Final = (
    "unit_loss of unreduced losses descends on their geometric mean: every sample pulls alike, whether solved or not, "
    "so solved samples keep full weight and hard ones fade"
)


def unit_loss(loss: Float[Tensor, "*samples"], accumulate: int = 1, *, floor: float | None = None) -> Float[Tensor, ""]:
    r"""The loss divided by its own value, times 1/accumulate: value 1/accumulate, gradient that of :math:`\log L`.

    .. math:: \nabla\,\mathrm{unit}(L) = \frac{\nabla L}{\text{accumulate}\; L}

    Any reduction: a factor on the whole loss cancels, so sum and mean give the same gradient, and nothing else does.
    The gradient's *norm* is not made constant: for a squared error it grows as the fit gets good, like
    :math:`1/\sqrt L`. Give it an lr that decays to zero: at a constant lr it stalls.

    A loss that is negative, zero, infinite, or so small or large that 1/L cannot be written in its number format
    gives the *value nan and a zero gradient* (nan where the loss's own backward makes inf times zero); a nan loss
    gives nan in both. `guard` skips the step in each case. A negative loss on the CPU also warns. The value is
    computed in float32 at least; nothing is read on the host, and `torch.compile` makes one graph of it.

    Args:
        loss: A scalar of any reduction. Unreduced losses are taken only with `floor`, and warn.
        accumulate: Micro-batches a step.
        floor: Positive; L is divided by L + floor. Bounds what a small loss can do.

    Raises:
        ValueError: If `accumulate` is not a positive int, `floor` not positive, or the losses are unreduced and there
            is no `floor`: a sample whose loss is exactly zero would be 0/0.

    Note:
        Deviation: the source divides by `loss.item()`, which waits for the device, breaks a compiled graph, climbs
        where the loss is negative, and is silent where it is infinite. tests/loss/test_unit_loss.py shows each.

    Note:
        Over several micro-batches, the mean of their unit losses is not the unit loss of the whole batch: each is
        divided by its own value (median error of the gradient 0.3 to 0.9 once training is under way).
        `Tally(scale="unit")` sums first and divides last, and is exact.

    Example:
        >>> w = torch.tensor(3.0, requires_grad=True)
        >>> for factor in (1.0, 1e-6):  # the gradient of log(w**2) is 2/w, in any unit
        ...     loss = unit_loss(factor * w**2)
        ...     loss.item(), round(torch.autograd.grad(loss, w)[0].item(), 6)
        (1.0, 0.666667)
        (1.0, 0.666667)
        >>> unit_loss(0 * w)
        tensor(nan, grad_fn=<AddBackward0>)

    References:
        "The case for unit-normalized loss (with back-propagation)", the second listing.
    """
    _check(loss, accumulate, floor)
    wide = loss.to(torch.promote_types(loss.dtype, torch.float32))
    value = wide.detach()
    divisor = value + (floor or 0.0)
    step = 1 / divisor / (accumulate * max(loss.numel(), 1))
    written = step.to(loss.dtype)  # as autograd hands it to the loss
    fine = (value >= 0) & (written > 0) & torch.isfinite(written)  # 1/inf is zero
    fine = fine.all() & (value > 0).any()
    if not torch.compiler.is_compiling():
        _warn(value)
    step = torch.where(value.isnan(), value, torch.where(fine, step, 0.0))
    shown = torch.where(fine, (value / divisor).mean() / accumulate, torch.nan)
    return ((wide - value) * step).sum() + shown


def _check(loss: Tensor, accumulate: int, floor: float | None) -> None:
    """Refuse what has no meaning; no value of a tensor is looked at."""
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"`accumulate` must be a positive int, the micro-batches a step; found {accumulate!r}"
        raise ValueError(msg)
    if floor is not None and not 0.0 < floor < float("inf"):
        msg = f"`floor` must be positive and finite, in units of the loss; found {floor!r}"
        raise ValueError(msg)
    if loss.dim() > 0 and floor is None:
        msg = (
            f"`loss` must be a scalar, found shape {tuple(loss.shape)}; reduce it first. Unreduced losses give the "
            "gradient of their geometric mean: solved samples keep full weight, hard ones fade, and one that is "
            "exactly zero gives nan. If that is wanted, pass `floor=`, the loss below which a sample counts less"
        )
        raise ValueError(msg)


def _warn(value: Tensor) -> None:
    """Warn of unreduced losses, and of a negative one where its value lies in this process's own memory.

    Python's filters show a warning once a place; nothing is kept here.
    """
    if value.dim() > 0:
        warn(_PER_SAMPLE, stacklevel=4)
    if value.device.type != "cpu" or type(value) is not Tensor:  # fake tensors and other subclasses have no numbers
        return
    least = value.amin() if value.numel() else value.sum()
    try:
        number = least.to(torch.float64, copy=True)
        negative = ctypes.c_double.from_address(number.data_ptr()).value < 0
    except RuntimeError:  # torch.func's wrappers have no memory of their own
        return
    if negative:
        warn(_NEGATIVE, stacklevel=4)
