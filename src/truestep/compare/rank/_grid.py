"""Values to try, as multiples of a first one, and where to look on when the best lies at the edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from truestep.compare.problems import Problem
from truestep.compare.step_matched._blocks import Scope
from truestep.compare.step_matched._extent import num_rows
from truestep.compare.step_matched._factor import Norm

FIRST: Final = 0.03  # of the weights' own size: the length that grids of matched steps are centred on
STRIDE: Final = 2  # values that are added at an edge at a time


def half_decades(low: int, high: int) -> tuple[float, ...]:
    """Powers of the root of ten, three digits of them.

    Example:
        >>> half_decades(-3, 2)
        (0.0316, 0.1, 0.316, 1.0, 3.16, 10.0)
    """
    return tuple(float(f"{10 ** (k / 2):.3g}") for k in range(low, high + 1))


def beyond(multipliers: Sequence[float], levels: Sequence[float]) -> tuple[float, ...]:
    """The next half decades past the edge that the least level lies at; none if it lies within.

    Args:
        multipliers: Half decades tried, from small to large.
        levels: What each gave.

    Example:
        >>> beyond((0.1, 0.316, 1.0), (5.0, 4.0, 3.0)), beyond((0.1, 0.316, 1.0), (5.0, 3.0, 4.0))
        ((3.16, 10.0), ())
    """
    best = levels.index(min(levels))
    if best == len(levels) - 1:
        edge = round(2 * math.log10(multipliers[-1]))
        return half_decades(edge + 1, edge + STRIDE)
    if best == 0:
        edge = round(2 * math.log10(multipliers[0]))
        return half_decades(edge - STRIDE, edge - 1)
    return ()


def first_length(problem: Problem, norm: Norm, scope: Scope) -> float:
    """A length to start from: 3 % of the size that the weights of seed 0 have, in the norm's unit.

    Example:
        >>> from truestep.compare.problems import digits_mlp
        >>> first_length(digits_mlp(), "relative", "tensor"), first_length(digits_mlp(), "l2", "global")
        (0.03, 0.11)
    """
    if norm in ("relative", "angular"):
        return FIRST
    weights = list(problem.build(0).parameters())
    size = sum(float(w.detach().double().square().sum()) for w in weights) ** 0.5 or 1.0
    rows = {"tensor": len(weights), "unit": sum(num_rows(w, units=True) for w in weights)}
    blocks = rows.get(scope, 1) if norm == "l2" else sum(w.numel() for w in weights)
    return float(f"{FIRST * size / math.sqrt(blocks):.2g}")
