"""Losses on a log scale, where a difference is a ratio; runs that diverged are kept, at a ceiling."""

from __future__ import annotations

import math
from typing import Final

from jaxtyping import Float, Float64
from torch import Tensor

from truestep.compare.statistics._interval import LEVEL, Interval, student_bounds

RANGE: Final = 1e-12  # of the ceiling: below it a loss counts as solved, so that an exact 0 does not rule a mean


def log_losses(losses: Float[Tensor, "*shape"], ceiling: float | int) -> Float64[Tensor, "*shape"]:
    """Natural logarithms of losses, in nats; a diverged one (nan, inf, above the ceiling) is put at the ceiling.

    Args:
        losses: Of any shape.
        ceiling: What a diverged run counts as: a thousand times the untrained model's loss, say. A loss below 1e-12
            of it counts as that.

    Raises:
        ValueError: `ceiling` is not positive, or a loss is negative: its logarithm says nothing.

    Example:
        >>> import torch
        >>> log_losses(torch.tensor([1.0, torch.inf, torch.nan]), ceiling=100).tolist()
        [0.0, 4.60..., 4.60...]
    """
    if not 0 < ceiling < math.inf:
        raise ValueError(f"`ceiling` must be positive and finite, found {ceiling}")
    if (losses < 0).any():
        raise ValueError(f"`losses` must not be negative for a log scale, found {losses.nan_to_num(0.0).min():.4g}")
    kept = losses.double().nan_to_num(nan=ceiling, posinf=ceiling)
    return kept.clamp(ceiling * RANGE, ceiling).log()


def geometric_interval(losses: Float[Tensor, " seeds"], ceiling: float | int, level: float = LEVEL) -> Interval:
    """Geometric mean of a loss over seeds with Student's interval of the mean logarithm, in the loss's unit.

    Args:
        losses: One a seed.
        ceiling: As `log_losses` takes it.
        level: Share of such intervals that hold the true mean.

    Raises:
        ValueError: A loss is negative, or there are fewer than two.
        ImportError: scipy is not installed.

    Example:
        >>> import torch
        >>> print(geometric_interval(torch.tensor([1.0, 10.0, 100.0]), ceiling=1e3))
        10 [0.0328, 3.05e+03]
    """
    mean, low, high = (float(each.exp()) for each in student_bounds(log_losses(losses, ceiling), level))
    return Interval(mean, low, high)
