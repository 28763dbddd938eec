"""The factor that gives a step a wanted length, where its length is no formula of the factor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, expm1, inf, isfinite, log, nan, prod

_WIDEN = log(8.0)  # beyond all that was tried: no further than a factor 8, but for the first guess of slope 1
_LARGEST = 700.0  # its exponential is a number


def nearest_factor(
    length_of: Callable[[float], float],
    wanted: int | float,
    first: int | float,
    *,
    evaluations: int,
    tolerance: float = 1e-7,
) -> tuple[float, float]:
    r"""The :math:`c > 0` of those tried whose length :math:`N(c)` comes closest to `wanted`, and that length.

    The logarithm of the length is nearly a straight line in :math:`\log c`, of slope 1 where steps are short: each
    guess is the inverse interpolation through the nearest three points, kept between the largest :math:`c` that was too
    short and the smallest that was too long; where the latest guess came no nearer the interval of the two is halved.

    Args:
        length_of: :math:`N`, 0 at 0; what it costs is a forward of the network.
        wanted: The length, positive.
        first: Where to begin.
        evaluations: How often `length_of` may be called.
        tolerance: Relative error that is good enough.

    Returns:
        Factor and length; (nan, 0) where the first length is 0, and nan for both where none is finite.

    Example:
        >>> c, length = nearest_factor(lambda c: c + c**2, 0.75, 1.0, evaluations=7)
        >>> round(c, 9), round(length, 9)
        (0.5, 0.75)
    """
    points: list[tuple[float, float]] = []  # (log c, log of the length's ratio to the wanted one), in order
    low, high, x = -inf, inf, log(first)
    for _ in range(evaluations):
        length = length_of(exp(x))
        if length == 0 and not points:
            return nan, 0.0
        y = log(length / wanted) if isfinite(length) and length > 0 else (-inf if length == 0 else inf)
        low, high = (x, high) if y < 0 else (low, x)
        if isfinite(y):
            points.append((x, y))
            if abs(expm1(y)) <= tolerance:
                break
        x = _next(points, low, high)
    if not points:
        return nan, nan
    x, y = min(points, key=lambda point: abs(point[1]))
    return exp(x), wanted * exp(y)


def _next(points: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """Where to look next, between `low` and `high`."""
    nearest = sorted(points, key=lambda point: abs(point[1]))[:3]
    stalled = len(points) > 2 and points[-1] is not nearest[0]
    least, most = low, high
    if len(points) > 1 and not isfinite(high - low):
        least, most = (high - _WIDEN, high) if isfinite(high) else (low, low + _WIDEN)
    if not (stalled and isfinite(high - low)):
        for count in range(len(nearest), 0, -1):
            x = _interpolated(nearest[:count])
            if low < x < high:
                return min(max(x, least), most, _LARGEST)
    if isfinite(high - low):
        return (low + high) / 2
    return low + _WIDEN if isfinite(low) else high - _WIDEN


def _interpolated(points: Sequence[tuple[float, float]]) -> float:
    """The x at y = 0 of the polynomial x(y) through the points (Lagrange); of one point, with slope 1."""
    if len(points) == 1:
        return points[0][0] - points[0][1]
    total = 0.0
    for x, y in points:
        others = [other for point, other in points if point != x]
        if y in others:
            return nan
        total += x * prod(other / (other - y) for other in others)
    return total
