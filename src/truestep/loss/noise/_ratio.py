"""The ratio of two means with its interval, without dividing one observation by another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Final

FEWEST: Final = 8  # pairs: Student's quantile below is an expansion, good to 1e-3 from here on


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of means and its interval; nan for a ratio whose denominator may be 0, with `high` infinite.

    Example:
        >>> print(Ratio(1.0, 0.91, 1.1234))
        1 [0.91, 1.12]
    """

    value: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Whether the denominator is distinguishable from 0, and the interval therefore finite."""
        return math.isfinite(self.high)

    def __str__(self) -> str:
        if self.resolved:
            return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"
        return f"not resolved, above {self.low:.3g}" if self.low > 0 else "not resolved"


def ratio_of_means(numerators: Sequence[float], denominators: Sequence[float], confidence: float = 0.95) -> Ratio:
    r"""Ratio :math:`\bar x / \bar y` of two positive means from pairs, with the interval of Fieller's theorem.

    The interval holds all :math:`r \ge 0` for which :math:`\overline{x - r y}` is not told from 0 by a t-test of the
    pairs. Where :math:`\bar y` itself does not, it has no upper end. The median or mean of :math:`x_i / y_i` would be
    biased wherever single :math:`y_i` come near 0.

    Args:
        numerators: Independent observations of x.
        denominators: The y that belong to them.
        confidence: Probability that the interval covers the ratio of the true means.

    Raises:
        ValueError: Fewer than 8 pairs, or a confidence that is no probability.

    Example:
        >>> print(ratio_of_means([2.0, 2.2, 1.8, 2.0] * 3, [1.0, 1.2, 0.8, 1.0] * 3))
        2 [1.91, 2.1]

    References:
        Fieller, "Some problems in interval estimation", 1954.
    """
    if len(numerators) < FEWEST or len(numerators) != len(denominators):
        msg = (
            f"at least {FEWEST} pairs are needed, found {len(numerators)} numerators, {len(denominators)} denominators"
        )
        raise ValueError(msg)
    x, y = fmean(numerators), fmean(denominators)
    t2 = student_quantile(confidence, len(numerators) - 1) ** 2
    vxx, vxy, vyy = (
        _covariance_of_means(a, b)
        for a, b in ((numerators, numerators), (numerators, denominators), (denominators, denominators))
    )
    # x - r y differs from 0 by less than t: a r² - 2 b r + c <= 0
    a, b, c = y * y - t2 * vyy, x * y - t2 * vxy, x * x - t2 * vxx
    root = math.sqrt(max(b * b - a * c, 0.0))
    if a > 0 and y > 0 and x >= 0:
        return Ratio(x / y, max((b - root) / a, 0.0), max((b + root) / a, 0.0))
    beyond = (b - root) / a if a < 0 < c and x > 0 else 0.0  # the positive root: from there on all ratios are possible
    return Ratio(math.nan, max(beyond, 0.0), math.inf)


def student_quantile(confidence: float, freedom: int) -> float:
    """Half width of a two-sided interval of Student's t, in standard errors, to 1e-3 from 7 degrees of freedom on.

    Example:
        >>> round(student_quantile(0.95, 15), 3)
        2.131

    References:
        Abramowitz and Stegun, 26.7.5.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie between 0 and 1, found {confidence}")
    z, n = NormalDist().inv_cdf((1 + confidence) / 2), freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n**power for power, term in enumerate(terms, 1))


def _covariance_of_means(a: Sequence[float], b: Sequence[float]) -> float:
    mean_a, mean_b, n = fmean(a), fmean(b), len(a)
    return math.fsum((u - mean_a) * (v - mean_b) for u, v in zip(a, b, strict=True)) / (n * (n - 1))
