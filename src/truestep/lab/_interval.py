"""The mean over seeds with its 95 % interval, and whether two of them meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from truestep.compare.statistics import LEVEL, t_quantile

__all__ = ["LEVEL", "Interval", "t_interval"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the ends of its 95 % interval, in the unit of what was measured.

    Example:
        >>> print(Interval(1.48, 1.402, 1.561))
        1.48 [1.4, 1.56]
    """

    mean: float
    low: float
    high: float

    def meets(self, other: Interval) -> bool:
        """Whether the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def t_interval(values: Sequence[float]) -> Interval:
    r"""Student's interval for the mean: :math:`\bar x \pm t_{n-1} s / \sqrt n`.

    Args:
        values: One number per seed, at least two.

    Raises:
        ValueError: If there are fewer than two values.
        ImportError: If scipy is not installed.

    Example:
        >>> print(t_interval([1.0, 2.0, 3.0]))
        2 [-0.484, 4.48]
    """
    quantile, mean = t_quantile(len(values)), fmean(values)
    half = quantile * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)
