"""Which part of a scale-invariant tensor is so by itself: a unit, a group of units, or only the whole."""

from __future__ import annotations

from math import nan

from jaxtyping import Float64
from torch import Tensor

SAME = 3e-3  # mean cosine of weight and gradient up to which the parts are orthogonal too; a LayerNorm's rows have 0.1


def granularity(units: Float64[Tensor, "rows units sums"]) -> tuple[str, int]:
    """Label and number of units of the smallest equal parts that are orthogonal to their gradients.

    Args:
        units: <w, g> and |w||g| by unit, at several weights at which the tensor itself is orthogonal.

    Example:
        >>> import torch
        >>> wg, size = torch.tensor([[0.4, -0.4, 0.3, -0.3]]).double(), torch.ones(1, 4).double()
        >>> granularity(torch.stack([wg, size], -1))
        ('group', 2)
    """
    number = units.shape[1]
    for width in (d for d in range(1, number) if number % d == 0):
        if residual(units, width) <= SAME:
            return ("unit" if width == 1 else "group"), width
    return "tensor", number


def residual(units: Float64[Tensor, "rows units sums"], width: int) -> float:
    r"""Root mean square of :math:`\langle w,g\rangle / \|w\|\|g\|` over parts of `width` units; nan of dead ones.

    Dead parts beside living ones are left out.
    """
    parts = units.unflatten(1, (-1, width))
    size = parts[..., 1].square().sum(-1).sqrt()
    seen = size > 1e-6 * size.amax(-1, keepdim=True)  # below, only rounding is left
    cosines = (parts[..., 0].sum(-1) / size)[seen]
    return float(cosines.square().mean().sqrt()) if cosines.numel() else nan
