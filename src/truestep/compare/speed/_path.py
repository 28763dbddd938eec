"""Do two runs walk the same path, whatever their speed? A loss curve alone cannot say: it has one dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PathTest:
    """How far B's path lies from A's, as a share of the length of B's path; means over seeds.

    A path is the probe's outputs at the points of the curve (of a model of at most 100 weights, the weights).

    Args:
        distance_at_one: From A at its own lr.
        distance: From A at the fitted multiplier.
        floor: From a second copy of B with another order of the data.
    """

    distance_at_one: float
    distance: float
    floor: float

    def __str__(self) -> str:
        return f"{self.distance:.2g} of B's length ({self.distance_at_one:.2g} at A's own lr, floor {self.floor:.2g})"


def path_test(
    a_at_one: Float[Tensor, "seeds points d"],
    a: Float[Tensor, "seeds points d"],
    b: Float[Tensor, "seeds points d"],
    b_again: Float[Tensor, "seeds points d"],
) -> PathTest:
    """The path test of four sets of runs, seed by seed; nan where B did not move or a path is not finite.

    Example:
        >>> import torch
        >>> steps = torch.arange(5.0)[:, None] * torch.tensor([3.0, 4.0])
        >>> b, slow = steps[None], steps[None] / 2
        >>> print(path_test(slow, b, b, b + torch.tensor([4.0, -3.0])))
        0 of B's length (0.15 at A's own lr, floor 0.25)
    """
    length = path_length(b)
    at_one, fitted, floor = (float((path_distance(b, each) / length).mean()) for each in (a_at_one, a, b_again))
    return PathTest(at_one, fitted, floor)


def path_length(path: Float[Tensor, "*seeds points d"]) -> Float64[Tensor, "*seeds"]:
    """Sum of the distances between a path's neighbouring points.

    Example:
        >>> import torch
        >>> path_length(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]]))
        tensor(6., dtype=torch.float64)
    """
    return path.double().diff(dim=-2).norm(dim=-1).sum(-1)


def path_distance(
    points: Float[Tensor, "*seeds points d"], path: Float[Tensor, "*seeds corners d"]
) -> Float64[Tensor, "*seeds"]:
    """Mean distance from `points` to the nearest place on `path`, straight between its corners.

    Example:
        >>> import torch
        >>> path_distance(torch.tensor([[1.0, 2.0], [5.0, 4.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 4.0]]))
        tensor(2., dtype=torch.float64)
    """
    start, along = path[..., :-1, :].double(), path.double().diff(dim=-2)
    each = [_distance(x.unsqueeze(-2), start, along) for x in points.double().unbind(-2)]  # all at once is too large
    return torch.stack(each, -1).mean(-1)


def _distance(x: Tensor, start: Tensor, along: Tensor) -> Tensor:
    """From one point, `[*seeds, 1, d]`, to the nearest of the segments."""
    squared = (along**2).sum(-1)
    share = ((x - start) * along).sum(-1) / torch.where(squared == 0, 1, squared)  # a segment of no length: its start
    return (x - start - share.clamp(0, 1).unsqueeze(-1) * along).norm(dim=-1).amin(-1)
