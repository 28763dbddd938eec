"""What one window tells about signal and noise of its gradient, from sums over its micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core._additive import AbstractSum
from truestep.loss._scale_lr import Number

Scalar = Float64[Tensor, ""]


@dataclass(frozen=True, slots=True)
class NoiseSums(AbstractSum):
    r"""Sums over micro-batches, each of :math:`n_i` items whose mean gradient :math:`g_i` was added times :math:`f_i`.

    Args:
        square: :math:`\sum_i \|f_i g_i\|^2 / f_i`.
        factor: :math:`\sum_i f_i`.
        first: :math:`\sum_i f_i / n_i`.
        second: :math:`\sum_i f_i^2 / n_i`.
    """

    square: Scalar
    factor: Scalar
    first: Scalar
    second: Scalar


def noise_sums(square: Scalar, items: Number | Tensor, factor: Number | Tensor) -> NoiseSums:
    r"""The sums of one micro-batch; zeros for one without items.

    Args:
        square: :math:`\|f g\|^2` of the gradient as it was added.
        items: Their number n; for items of unequal weight :math:`(\sum w)^2 / \sum w^2`.
        factor: By what the gradient of the mean over these items was multiplied.
    """
    n, f = (_on(square, value) for value in (items, factor))
    kept = (n > 0) & (f != 0)
    terms = (square / f, f, f / n, f * f / n)
    return NoiseSums(*(torch.where(kept, term, 0.0) for term in terms))


def noise_and_signal(window: NoiseSums, accumulated: Scalar) -> tuple[Scalar, Scalar]:
    r"""Unbiased :math:`\operatorname{tr}\Sigma` of one item's gradient, and :math:`\|G\|^2` of its mean.

    With :math:`F = \sum f_i`, :math:`m = \sum f_i g_i / F` and :math:`v = \sum (f_i/F)^2 / n_i`, expectations are
    :math:`\|G\|^2 + \operatorname{tr}\Sigma / n_i` for :math:`\|g_i\|^2`, and
    :math:`\|G\|^2 + v \operatorname{tr}\Sigma` for :math:`\|m\|^2`, whence

    .. math::
        \operatorname{tr}\hat\Sigma = \frac{\sum_i f_i \|g_i\|^2 - F \|m\|^2}{\sum_i f_i / n_i - F v}, \qquad
        \|\hat G\|^2 = \|m\|^2 - v \operatorname{tr}\hat\Sigma

    For equal micro-batches these are the estimators of McCandlish et al. The second may come out negative.

    Args:
        window: Sums over all micro-batches and ranks.
        accumulated: :math:`\|\sum_i f_i g_i\|^2`.

    Returns:
        Both in float64; nan or inf where the window has fewer than two micro-batches.

    Example:
        Two micro-batches of two items, with mean gradients 1 and 3 in one dimension:

        >>> one, nine, sixteen = torch.tensor([1.0, 9.0, 16.0], dtype=torch.float64)
        >>> noise, signal = noise_and_signal(noise_sums(one, 2, 1) + noise_sums(nine, 2, 1), sixteen)
        >>> noise.item(), signal.item()
        (4.0, 3.0)

    References:
        McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, appendix A.1, there for two batch sizes.
    """
    mean = accumulated / window.factor**2
    noise = (window.square - window.factor * mean) / (window.first - window.second / window.factor)
    return noise, mean - noise * window.second / window.factor**2


def _on(like: Scalar, value: Number | Tensor) -> Scalar:
    if isinstance(value, Tensor):
        return value.detach().to(like.device, torch.float64)
    return torch.full((), value, dtype=torch.float64, device=like.device)
