"""Losses as a sum and a count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from truestep.core._additive import AbstractSum


@dataclass(frozen=True, slots=True)
class SumCount(AbstractSum):
    r"""Sum of weighted losses, sum of weights and number of terms; the mean however the batch was cut.

    Args:
        loss: :math:`\sum_i c_i \ell_i`, in units of the loss.
        weight: :math:`\sum_i c_i`; the number of terms where none is weighted.
        count: Number of terms with a weight other than zero.

    Example:
        >>> whole = sum_count(torch.tensor([1.0, 2.0, 6.0]))
        >>> parts = sum_count(torch.tensor([1.0])) + sum_count(torch.tensor([2.0, 6.0]))
        >>> whole.mean == parts.mean == 3
        tensor(True)
    """

    loss: Float64[Tensor, ""]
    weight: Float64[Tensor, ""]
    count: Float64[Tensor, ""]

    @property
    def mean(self) -> Float64[Tensor, ""]:
        """Weighted mean loss; nan for no terms."""
        return self.loss / self.weight


def sum_count(losses: Float[Tensor, "*terms"], weights: Float[Tensor, "*terms"] | None = None) -> SumCount:
    """The `SumCount` of unreduced losses; a term of weight 0 (an ignored target) does not count, whatever its loss.

    Args:
        losses: Unreduced losses (`reduction="none"`), any float dtype; summed in float64.
        weights: One weight a term; all 1 where none are given.
    """
    losses = losses.detach().double()
    weights = torch.ones_like(losses) if weights is None else weights.detach().double()
    kept = weights != 0
    zero = torch.zeros_like(losses)
    return SumCount(torch.where(kept, losses * weights, zero).sum(), weights.sum(), kept.double().sum())
