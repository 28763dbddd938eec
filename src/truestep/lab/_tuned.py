"""The loss at the best lr of a grid, where a seed has no say in its own lr."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

Table = Sequence[Sequence[float]]  # log losses: a seed a row, an lr a column


class Tuned(NamedTuple):
    """Log loss of each seed at the lr that is best for the others, the lr's column, and whether it is an edge."""

    losses: list[float]
    column: int
    at_edge: bool


def tuned(table: Table) -> Tuned:
    """Leave one out: a grid's luckiest column is not taken for a seed because of that seed's luck.

    Args:
        table: Log losses of each seed at each lr, lrs rising; at least two seeds.

    Returns:
        The losses; the column is the one that is best for all.

    Example:
        >>> tuned([[3.0, 0.0, 9.0], [3.0, 2.0, 1.0], [3.0, 2.0, 2.5]])
        Tuned(losses=[9.0, 2.0, 2.0], column=1, at_edge=False)
    """
    losses: list[float] = []
    for i, row in enumerate(table):
        others = [other for j, other in enumerate(table) if j != i]
        losses.append(row[_best(others)])
    column = _best(table)
    return Tuned(losses, column, column in (0, len(table[0]) - 1))


def _best(table: Table) -> int:
    means = [fmean(column) for column in zip(*table, strict=True)]
    return means.index(min(means))
