"""First and second moments of activations, as sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from truestep.core._additive import AbstractSum


@dataclass(frozen=True, slots=True)
class Moments(AbstractSum):
    r"""Number of samples, :math:`\sum a` and :math:`\sum a a^\top` of activations :math:`a`.

    Args:
        n: Number of samples.
        a: Sum of the activations, one entry a feature.
        aa: Sum of their outer products.

    Example:
        >>> batch = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
        >>> (moments(batch[:1]) + moments(batch[1:])).mean
        tensor([2., 1.], dtype=torch.float64)
    """

    n: Float64[Tensor, ""]
    a: Float64[Tensor, " features"]
    aa: Float64[Tensor, "features features"]

    @property
    def mean(self) -> Float64[Tensor, " features"]:
        """Mean activation m, in units of the activation."""
        return self.a / self.n

    @property
    def covariance(self) -> Float64[Tensor, "features features"]:
        r"""Population covariance :math:`\Sigma = \sum a a^\top / n - m m^\top` (divided by n, not n - 1).

        Note:
            The difference loses :math:`\|m\|^2 / \|\Sigma\|` of float64's 16 digits; nothing else is exact over shards.
        """
        mean = self.mean
        return self.aa / self.n - torch.outer(mean, mean)


def moments(activations: Float[Tensor, "*samples features"]) -> Moments:
    """The `Moments` of a batch of activations, features last; any float dtype, summed in float64."""
    rows = activations.detach().reshape(-1, activations.shape[-1]).double()
    return Moments(torch.full_like(rows.new_empty(()), rows.shape[0]), rows.sum(0), rows.T @ rows)
