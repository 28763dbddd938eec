"""How long a step is, and what it is multiplied with to be as long as wanted."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare.step_matched._extent import Extent

Norm = Literal["l2", "rms", "linf", "relative", "angular"]
NORMS: tuple[Norm, ...] = get_args(Norm)

_LARGEST = torch.finfo(torch.float32).max  # weights are multiplied in float32: a larger factor is none
_RADIAL = 1e-5  # of a step whose tangential share is less, rounding leaves fewer than six digits


def step_length(moved: Extent, norm: Norm, floor: float = 0.0) -> Float64[Tensor, "*blocks"]:
    r"""Length :math:`N(u)` of each block's step; an angle in radians, the others in the weights' unit or without.

    .. math:: \|u\|, \quad \frac{\|u\|}{\sqrt n}, \quad \max_i |u_i|, \quad \frac{\|u\|}{\max(\|w\|, f\sqrt n)},
        \quad \angle(w, w + u)

    Args:
        moved: What the step did.
        norm: "l2", "rms", "linf", "relative" or "angular", in this order above.
        floor: :math:`f`, the smallest root mean square that "relative" takes a weight to have.

    Example:
        >>> from truestep.compare.step_matched import extent
        >>> moved = extent(torch.tensor([3.0, 0.0]), torch.tensor([3.0, 3.0]))
        >>> [round(float(step_length(moved, norm)), 4) for norm in NORMS]
        [3.0, 2.1213, 3.0, 1.0, 0.7854]
    """
    if norm == "linf":
        return moved.largest
    if norm == "angular":
        length, radial, tangential = _components(moved)
        angle = torch.atan2(tangential, length + radial)
        return torch.where(length > 0, angle, torch.nan)
    divisor = {
        "l2": torch.ones_like(moved.count),
        "rms": moved.count.sqrt(),
        "relative": torch.maximum(moved.ww.sqrt(), floor * moved.count.sqrt()),
    }
    return moved.uu.sqrt() / divisor[norm]


def matching_factor(
    moved: Extent, norm: Norm, length: Float64[Tensor, "*#blocks"], floor: float = 0.0
) -> Float64[Tensor, "*blocks"]:
    r"""The :math:`c \ge 0` with :math:`N(c\,u) =` `length`, nan where there is none: a block that did not move, say.

    Example:
        >>> from truestep.compare.step_matched import extent
        >>> moved = extent(torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]]), units=True)
        >>> matching_factor(moved, "l2", torch.tensor(1.0, dtype=torch.float64))
        tensor([0.2000,    nan], dtype=torch.float64)
    """
    if norm == "angular":
        return angular_factor(moved, length)
    took = step_length(moved, norm, floor)
    c = length / took
    return torch.where(took.isfinite() & (c >= 0) & (c < _LARGEST), c, torch.nan)  # of an infinite step 0 is no factor


def angular_factor(moved: Extent, angle: Float64[Tensor, "*#blocks"]) -> Float64[Tensor, "*blocks"]:
    r"""The :math:`c \ge 0` with :math:`\angle(w, w + c\,u) = \theta`, nan where no scale turns the weight that far.

    .. math:: c = \frac{\|w\| \sin\theta}{\|u_\perp\| \cos\theta - u_\parallel \sin\theta}, \qquad
        u_\parallel = \frac{\langle w, u \rangle}{\|w\|}, \qquad 0 \le \theta < \angle(w, u)

    By the law of sines in the triangle of :math:`w` and :math:`c\,u`. The weight's angle to its start comes as close to
    :math:`\angle(w, u)` as one likes, at ever longer steps, and never there; a radial step has no angle, nor has a
    weight of norm 0.

    Example:
        >>> from math import pi
        >>> from truestep.compare.step_matched import extent
        >>> moved = extent(torch.tensor([3.0, 0.0]), torch.tensor([3.0, 1.0]))
        >>> angular_factor(moved, torch.tensor([pi / 4], dtype=torch.float64))
        tensor([3.0000], dtype=torch.float64)
    """
    length, radial, tangential = _components(moved)
    turned = tangential * angle.cos() - radial * angle.sin()
    size = moved.uu.sqrt()
    c = length * angle.sin() / turned
    reached = (tangential > _RADIAL * size) & (turned > _RADIAL * size) & (length > 0)
    asked = (angle >= 0) & (angle < torch.pi)
    return torch.where(reached & asked & (c < _LARGEST), c, torch.nan)


def _components(moved: Extent) -> tuple[Tensor, Tensor, Tensor]:
    """The weight's norm, and the step's part along the weight and across it; nan parts for a weight of norm 0."""
    length = moved.ww.sqrt()
    radial = moved.wu / length
    return length, radial, (moved.uu - radial.square()).clamp_min(0.0).sqrt()
