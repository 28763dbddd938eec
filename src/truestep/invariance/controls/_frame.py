"""Where the twin without weight decay stands beside the run with it: two numbers for each parameter group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import frexp, inf, nan
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core._sharding import local

Number = int | float | Float64[Tensor, ""]


@dataclass(frozen=True, slots=True)
class Frame:
    r"""Weights and momentum of a run, in those of its twin: :math:`w = P\tilde w`, :math:`v = \tilde v/P + b w`.

    Args:
        scale: :math:`P`, at most 1 and falling: the twin's weights are 1/P times as long.
        radial: :math:`b`, what the run's buffer holds of its weight, from decays before; 0 in a buffer of gradients.
    """

    scale: Number = 1.0
    radial: Number = 0.0


def next_frame(
    frame: Frame, lr: Number, weight_decay: Number, momentum: Number, *, decoupled: bool = False
) -> tuple[Frame, Number]:
    r"""The frame after a step, and the lr with which the twin takes it without decay.

    .. math:: k = \mu b + \lambda, \quad a = 1 - \eta k, \quad P' = aP, \quad b' = k/a, \quad
        \tilde\eta = \frac{\eta}{P P'}

    With decoupled decay :math:`a = 1 - \eta\lambda` and b stays 0; the twin's next momentum is then :math:`a\mu`, or
    its buffer is multiplied by a behind the step, which is the same.

    Exact for any lr (0 too), decay and momentum at each step. There is a twin only while a > 0: a scale that is known
    not to be is returned as 0, with no lr (nan).

    Example:
        >>> frame, lr = next_frame(Frame(), 0.5, 1.0, 0.0)
        >>> frame.scale, lr
        (0.5, 1.0)

    References:
        Li & Arora, 2020, "An exponential learning rate schedule for deep learning". Note: Deviation: this form needs no
        corrected buffer at the start, holds for any schedule, and does not divide by the lr of the step before.
    """
    start, radial, lr, weight_decay = _alike(frame.scale, frame.radial, lr, weight_decay)
    pull = weight_decay if decoupled else momentum * radial + weight_decay
    keep = 1.0 - lr * pull
    scale = keep * start
    if not isinstance(scale, Tensor) and scale <= 0:
        return Frame(0.0), nan
    remembered = not decoupled and not _is_zero(momentum)  # else there is no buffer, or none that holds the weight
    return Frame(scale, pull / keep if remembered else 0.0), lr / (start * scale)


def unless_skipped(found_inf: Tensor | None, before: Frame, after: Frame) -> Frame:
    """`after`, or `before` where the step was skipped (`found_inf` is 1); waits for no device."""
    if found_inf is None:
        return after
    numbers = [before.scale, before.radial, after.scale, after.radial]
    tensors = [x for x in (*numbers, found_inf) if isinstance(x, Tensor) and (x is not found_inf or not _is_host(x))]
    if not tensors:
        return before if bool(found_inf) else after
    device = tensors[0].device
    scale, radial, new_scale, new_radial = (as_tensor(x, device) for x in numbers)
    skipped = found_inf.reshape(()).to(device) != 0
    return Frame(torch.where(skipped, scale, new_scale), torch.where(skipped, radial, new_radial))


def unwound(frame: Frame, after: Frame) -> Frame:
    """`frame`, without the decays in its buffer where they would turn the weight in the step to `after`, or nearly.

    The same object where it is known to stay; waits for no device.

    Example:
        >>> unwound(Frame(0.5, 3.0), Frame(0.1, 9.0))
        Frame(scale=0.5, radial=0.0)
    """
    if _is_zero(frame.radial):
        return frame
    turned = after.scale <= 0.5 * frame.scale
    if isinstance(turned, Tensor):
        return Frame(frame.scale, torch.where(turned, 0.0, as_tensor(frame.radial, turned.device)))
    return Frame(frame.scale) if turned else frame


def renormalised(frame: Frame, limit: int | float) -> tuple[Frame, Number]:
    """Where weights are longer than `limit` times the run's, the frame whose scale is in [1/2, 1), and by which power.

    By powers of two nothing is rounded. Waits for no device.

    Example:
        >>> renormalised(Frame(0.001, 3.0), 256)
        (Frame(scale=0.512, radial=3.0), 9)
    """
    if limit == inf:
        return frame, 0
    if isinstance(frame.scale, Tensor):
        mantissa, exponent = torch.frexp(frame.scale)
        long = frame.scale * limit < 1
        return Frame(torch.where(long, mantissa, frame.scale), frame.radial), torch.where(long, -exponent, 0).double()
    mantissa, exponent = frexp(frame.scale)
    return (Frame(mantissa, frame.radial), -exponent) if frame.scale * limit < 1 else (frame, 0)


@torch.no_grad()
def change_frame(pairs: Iterable[tuple[Tensor, Tensor | None]], before: Frame, after: Frame) -> None:
    """Write the twin's weights and buffers in another frame; the run that they stand for stays the same."""
    ratio = None if before.scale is after.scale else before.scale / after.scale
    mixed = 0.0 if before.radial is after.radial else (before.radial - after.radial) * after.scale * after.scale
    for weight, buffer in pairs:
        w = local(weight)
        if ratio is not None:
            w.mul_(ratio)
        if buffer is not None:
            v = local(buffer)
            if ratio is not None:
                v.mul_(1.0 / ratio)
            if not _is_zero(mixed):
                v.add_(w * mixed)


def as_tensor(x: Number, device: torch.device) -> Float64[Tensor, ""]:
    """A number as a float64 scalar on the device; one that is there already as it is."""
    return x.to(device) if isinstance(x, Tensor) else torch.full((), x, dtype=torch.float64, device=device)


def as_number(setting: Any) -> Number:
    """A group's setting as a plain number, or in float64 on the device where it lies: reading it there would wait."""
    if not isinstance(setting, Tensor):
        return setting
    return float(setting) if _is_host(setting) else setting.detach().reshape(()).double()


def like_setting(number: Number, setting: Any) -> Any:
    """A number in the form of the setting it stands in for; fused CUDA kernels read a tensor's lr as float32."""
    if not isinstance(number, Tensor):  # one that is known is not rounded to the setting's format
        return torch.full_like(setting, number, dtype=torch.float64) if isinstance(setting, Tensor) else number
    if isinstance(setting, Tensor):
        return number.to(setting).reshape(setting.shape)
    return number if _is_host(number) else number.float()


def _alike(*numbers: Number) -> list[Number]:
    """All tensors where one is: torch rounds a plain number over a tensor otherwise, as a product with 1/x."""
    device = next((x.device for x in numbers if isinstance(x, Tensor)), None)
    return [x if device is None else as_tensor(x, device) for x in numbers]


def _is_host(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _is_zero(x: Number) -> bool:
    """Whether a number is known to be 0 without asking the device."""
    return not isinstance(x, Tensor) and x == 0
