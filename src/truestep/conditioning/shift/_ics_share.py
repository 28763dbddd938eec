"""How much of a layer's curvature lies along the mean of its inputs: one backward pass, no matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from truestep.core import AbstractSum


@dataclass(frozen=True, slots=True)
class ShareSums(AbstractSum):
    r"""Curvature of a layer's weights along the mean of its inputs, and in all directions.

    Args:
        along: :math:`\sum (\bar m^\top \bar a)^2 / \nu \; \|\delta\|^2` over rows.
        whole: :math:`\sum \|\bar a\|^2 \|\delta\|^2` over rows.
    """

    along: Float64[Tensor, ""]
    whole: Float64[Tensor, ""]

    @property
    def share(self) -> Float64[Tensor, ""]:
        """Share along the mean, between 0 and 1; nan where no gradient came."""
        return self.along / self.whole


def ics_share(
    mean: Float64[Tensor, "*groups features"],
    rows: Float[Tensor, "*groups rows features"],
    deltas: Float[Tensor, "*groups rows out"],
    *,
    bias: bool = True,
) -> ShareSums:
    r"""The sums of the ICS share of a layer :math:`s = W a + b`, from its inputs and the gradients at its outputs.

    .. math::
        \rho = \frac{\operatorname{tr} P^\top G P}{\operatorname{tr} G}
        = \frac{E[(\bar m^\top \bar a)^2 / \nu \; \|\delta\|^2]}{E[\|\bar a\|^2 \|\delta\|^2]},
        \qquad G = E[\bar a \bar a^\top \otimes \delta\delta^\top], \quad P = \bar m / \sqrt\nu \otimes I

    with :math:`\bar a = (a; 1)` and :math:`\bar m = (m; 1)`. Which matrix G is, the gradients decide: those of the
    user's loss make it the empirical Fisher; of labels drawn from the model, the Fisher (for softmax the GGN).
    Free of the scale and so of the reduction of the loss, provided that all deltas have the same one.

    Args:
        mean: Mean input m, over everything that is added up.
        rows: Inputs a; groups of a convolution first.
        deltas: Gradients of the loss by the outputs of these rows.
        bias: Whether the layer has a bias; without one :math:`\bar a = a`.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[3.0, 1.0], [3.0, -1.0]])
        >>> ics_share(torch.tensor([3.0, 0.0], dtype=torch.float64), rows, torch.ones(2, 1)).share
        tensor(0.9091, dtype=torch.float64)

    Note:
        The outputs of one sample at several positions (convolutions, tokens) count as rows of their own, as in K-FAC:
        what they have in common is left out of G.
    """
    along, whole = along_mean(mean, rows, bias=bias)
    weight = deltas.detach().double().square().sum(-1)
    return ShareSums((along * weight).sum(), (whole * weight).sum())


@torch.no_grad()
def along_mean(
    mean: Float64[Tensor, "*groups features"], rows: Float[Tensor, "*groups rows features"], *, bias: bool
) -> tuple[Float64[Tensor, "*groups rows"], Float64[Tensor, "*groups rows"]]:
    r""":math:`(\bar m^\top \bar a)^2 / \nu` and :math:`\|\bar a\|^2` of each row."""
    rows, one = rows.double(), float(bias)
    nu = mean.square().sum(-1, keepdim=True) + one
    product = (rows @ mean[..., None]).squeeze(-1) + one
    along = torch.where(nu > 0, product.square() / nu, torch.zeros_like(product))  # no mean, no direction
    return along, rows.square().sum(-1) + one
