"""Resamples of seeds, and an interval from them that is as wide as it says at eight seeds."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare.statistics._interval import LEVEL, Interval, t_quantile


def resamples(seeds: int, count: int = 2000, *, seed: int = 0) -> Float64[Tensor, "count seeds"]:
    """Weights of the seeds in so many bootstrap resamples: how often each was drawn, over the number of seeds.

    Args:
        seeds: How many there are; as many are drawn, with replacement.
        count: Number of resamples.
        seed: Of the draws; equal seeds, equal resamples.

    Example:
        >>> weights = resamples(4, 1000)
        >>> weights.shape, weights.sum(1).unique().tolist()
        (torch.Size([1000, 4]), [1.0])
    """
    drawn = torch.randint(seeds, (count, seeds), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(count, seeds, dtype=torch.float64).scatter_add_(
        1, drawn, torch.full(drawn.shape, 1 / seeds, dtype=torch.float64)
    )


def calibrated_interval(
    value: float, estimates: Float64[Tensor, " resamples"], seeds: int, level: float = LEVEL
) -> Interval:
    r"""Interval of an estimate from its bootstrap: :math:`x \pm t_{n-1} \sqrt{n/(n-1)}\, \mathrm{sd}^*`.

    :math:`\mathrm{sd}^*` is the spread over the resamples, which is too small by :math:`\sqrt{(n-1)/n}`; of a mean the
    interval is Student's own. Percentiles of the resamples are too narrow twice: by that factor, and by the normal
    quantile where Student's is due.

    Args:
        value: The estimate from all seeds.
        estimates: The same, made anew in each resample.
        seeds: How many there were.
        level: Share of such intervals that hold the true value.

    Raises:
        ValueError: There are fewer than two seeds.
        ImportError: scipy is not installed.

    Example:
        >>> import torch
        >>> values = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        >>> print(calibrated_interval(2.0, resamples(3, 20_000) @ values, 3))  # Student's: 2 [−0.484, 4.48]
        2 [−0.496, 4.5]
    """
    half = t_quantile(seeds, level) * math.sqrt(seeds / (seeds - 1)) * float(estimates.std(correction=0))
    return Interval(value, value - half, value + half)
