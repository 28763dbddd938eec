"""A ratio of two means over the same seeds, with its interval."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare.statistics import LEVEL, Interval, t_quantile


def ratio_interval(
    above: Float64[Tensor, " seeds"], below: Float64[Tensor, " seeds"], level: float = LEVEL
) -> Interval:
    r"""Fieller's interval: all ratios :math:`\rho` at which the mean of above - :math:`\rho` below may well be 0.

    .. math:: \Big\{\rho : \big(\bar x - \rho \bar y\big)^2 \le \tfrac{t^2}{n} \operatorname{var}(x - \rho y)\Big\}

    Args:
        above: One number a seed.
        below: One number a seed, the same seeds.
        level: Share of repetitions in which the interval holds the true ratio.

    Returns:
        The ratio of the means, and the interval's ends; they are infinite where the mean of `below` may be 0.

    Raises:
        ValueError: If there are fewer than two seeds.
        ImportError: scipy is not installed.

    Example:
        >>> import torch
        >>> whole = torch.tensor([2.0, 4.0, 6.0], dtype=torch.float64)
        >>> ratio_interval(whole / 2, whole)
        Interval(mean=0.5, low=-inf, high=inf)
        >>> ratio_interval(whole / 2 + 9, whole + 18)
        Interval(mean=0.5, low=0.5, high=0.5)

    References:
        Fieller, 1954, "Some problems in interval estimation".
    """
    error = t_quantile(len(above), level) ** 2 / len(above)
    (xx, xy), (_, yy) = torch.cov(torch.stack([above, below])).tolist()
    x, y = float(above.mean()), float(below.mean())
    curvature, slope, at_zero = y * y - error * yy, x * y - error * xy, x * x - error * xx
    ratio = x / y if y else math.nan
    if curvature <= 0:
        return Interval(ratio, -math.inf, math.inf)
    half = math.sqrt(max(slope * slope - curvature * at_zero, 0.0))
    return Interval(ratio, (slope - half) / curvature, (slope + half) / curvature)
