"""Directions that S does not see: the exponents under which the loss stays what it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

ZERO, GAP = 1e-4, 10.0  # a singular value that is surely none; how many times the next must be larger
BALANCING = 4  # rounds of scaling rows and columns to norm 1: their sizes differ by decades


@dataclass(frozen=True, slots=True)
class NullSpace:
    """Right singular directions of the balanced S, the least singular value first.

    Args:
        values: Singular values, over the norm of a column.
        directions: Exponents by row, in S's own columns.
    """

    values: Float64[Tensor, " directions"]
    directions: Float64[Tensor, "directions columns"]

    @property
    def dimension(self) -> int:
        """Number of singular values below the widest gap: what is surely in it, not what eps may hide."""
        gaps = self.values[1:] / self.values[:-1].clamp_min(ZERO)
        return 1 + int(gaps.argmax()) if len(gaps) and float(gaps.max()) > GAP and self.values[0] < ZERO else 0


def null_space(wg: Float64[Tensor, "rows columns"]) -> NullSpace:
    r"""Solutions :math:`a` of :math:`\sum_k S_{bk} a_k = 0` and how nearly each is one.

    With fewer rows than columns the missing singular values count as 0.

    Example:
        >>> s = torch.tensor([[1.0, 1.0, 2.0], [3.0, 3.0, 1.0], [1.0, 1.0, 5.0]], dtype=torch.float64)
        >>> found = null_space(s)
        >>> (found.values < 1e-12).tolist(), (found.directions[0] / found.directions[0, 0]).round().tolist()
        ([True, False, False], [1.0, -1.0, 0.0])
    """
    columns = wg.new_ones(wg.shape[1])
    balanced = wg
    for _ in range(BALANCING):
        balanced = balanced / _norms(balanced, 1).unsqueeze(1)
        norms = _norms(balanced, 0)
        balanced, columns = balanced / norms, columns * norms
    _, values, directions = torch.linalg.svd(balanced, full_matrices=True)
    padded = torch.cat([values, values.new_zeros(wg.shape[1] - values.numel())])
    return NullSpace(padded.flip(0), (directions / columns).flip(0))


def _norms(x: Tensor, dim: int) -> Tensor:
    norms = torch.linalg.vector_norm(x, dim=dim)
    return torch.where(norms == 0, torch.ones_like(norms), norms)
