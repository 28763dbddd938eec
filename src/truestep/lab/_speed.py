"""One seed's speed: the multiplier of an optimizer's lr at which its loss curve comes nearest to another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare.speed._fit import Grid, fine_decades, nearest, trained

SOLVED: Final = 1e-12  # of the loss at the start: below it curves are not told apart


class Speed(NamedTuple):
    """The multiplier, and the distance left in nats, root mean square over the points; also without a multiplier."""

    multiplier: float
    residual: float
    at_one: float
    at_edge: bool


def speed_of(
    start: float,
    losses_a: Float64[Tensor, "multipliers points"],
    losses_b: Float64[Tensor, " points"],
    multipliers: Sequence[float],
    steps: Sequence[int],
) -> Speed:
    """The speed of curve b in units of the optimizer whose curves, at these multipliers of its lr, are a.

    No lag, and no interval: that is over seeds.

    Args:
        start: Loss before the first step.
        losses_a: Rows that are not finite are left out.
        losses_b: At the same steps.
        multipliers: Rising, 1 among them.
        steps: Where the curves were read.

    Example:
        >>> steps, multipliers = range(10, 110, 10), (1.0, 2.0, 4.0, 8.0)
        >>> t = torch.tensor([*steps], dtype=torch.float64)
        >>> a = torch.stack([(-0.01 * c * t).exp() for c in multipliers])
        >>> round(speed_of(1.0, a, (-0.03 * t).exp(), multipliers, steps).multiplier, 1)
        3.0
    """
    kept = trained(losses_a.unsqueeze(1))
    rows = losses_a[kept]
    y = _log(torch.cat([rows.new_full((len(rows), 1), start), rows], 1), start).unsqueeze(1)  # [.., 1, points + 1]
    grid = Grid(y, torch.tensor(multipliers[kept], dtype=torch.float64).log10(), tuple(steps))
    places, none = fine_decades(grid.decades), torch.zeros(1, dtype=torch.float64)
    y_b = _log(losses_b, start)
    found = nearest(grid.distances(places, none, y_b.unsqueeze(0)))
    at_one = (_log(losses_a[list(multipliers).index(1.0)], start) - y_b).square().mean().sqrt().item()
    place = float(places[0]) + float(places[1] - places[0]) * float(found.place[0])
    return Speed(10**place, float(found.square[0]) ** 0.5, at_one, bool(found.at_edge[0]))


def _log(losses: Tensor, start: float) -> Tensor:
    return losses.clamp_min(SOLVED * start).log()
