"""How far the inputs of a layer are from zero mean, and the outlier eigenvalue that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from truestep.conditioning.shift._top_eigenvalue import top_eigenvalue
from truestep.core import Moments


@dataclass(frozen=True, slots=True)
class LayerShift:
    r"""Covariate shift at the input of one layer :math:`s = W a + b`, with :math:`\bar a = (a; 1)`.

    Of a convolution of several groups these are the numbers of the group with the largest top eigenvalue of
    :math:`\bar A` (by its lower bound): the others' blocks stand beside it.

    Args:
        n: Number of rows :math:`a`: samples, or samples times output positions.
        mean: :math:`m`, by feature, in units of the activation; on the CPU, like `variance`.
        variance: Population variance by feature, in squared units of the activation.
        nu: :math:`\nu = \|m\|^2 + 1`, in squared units of the activation (the 1 is the input of the bias).
        largest: :math:`\lambda_1(\Sigma)`, in the same unit.
        lower: Least value that :math:`\lambda_1(\bar A)` can have.
        upper: Largest value that it can have.
        ics_share: Share of the layer's curvature that lies along the mean, between 0 and 1; nan if not measured.
        group: Which group of a convolution this is.
    """

    n: int
    mean: Float64[Tensor, " features"]
    variance: Float64[Tensor, " features"]
    nu: float
    largest: float
    lower: float
    upper: float
    ics_share: float = math.nan
    group: int = 0

    @property
    def outlier(self) -> float:
        r""":math:`\nu / \lambda_1(\Sigma)`, without unit: an outlier stands out if it is far above 1, whatever ‖m‖ is.

        Above 13 the top eigenvector of :math:`\bar A` has a cosine above .999 with :math:`(m; 1)`.
        """
        if self.largest == 0:
            return math.inf if self.nu > 0 else math.nan
        return self.nu / self.largest


def layer_shift(moments: Moments, *, bias: bool = True) -> LayerShift:
    r"""What the moments of a layer's inputs say about the curvature it meets.

    The second moment of :math:`\bar a = (a; 1)` is a covariance and one outer product, so its top eigenvalue is bound:

    .. math::
        \bar A = E[\bar a \bar a^\top] = \begin{pmatrix} \Sigma & 0 \\ 0 & 0 \end{pmatrix} + \bar m \bar m^\top,
        \qquad \nu + \frac{m^\top \Sigma m}{\nu} \le \lambda_1(\bar A) \le \nu + \lambda_1(\Sigma),
        \qquad \lambda_2(\bar A) \le \lambda_1(\Sigma)

    with :math:`\bar m = (m; 1)` and :math:`\nu = \|\bar m\|^2`. With K-FAC's :math:`\bar A \otimes S` each eigenvalue
    of S comes back about :math:`\nu` times as large, with eigenvector :math:`\bar m \otimes v`.

    Args:
        moments: Of the rows that the layer multiplies.
        bias: Whether the layer has a bias. Without one there is no coordinate for it, and :math:`\nu = \|m\|^2`.

    Example:
        >>> import torch
        >>> from truestep.core import moments
        >>> shift = layer_shift(moments(torch.tensor([[2.0, 0.0], [4.0, 0.0]])))
        >>> shift.nu, shift.largest, shift.outlier, (shift.lower, shift.upper)
        (10.0, 1.0, 10.0, (10.9, 11.0))

    References:
        Grosse, CSC 2541 (2021), lecture 5, "ICS Conditioning Hypothesis". Note: Deviation: there the eigenvector is
        :math:`m \otimes v`; the bias has its place in it, as above. :math:`\nu` alone is a lower bound.
    """
    mean, covariance = moments.mean, moments.covariance
    nu = (mean @ mean).item() + float(bias)
    along = (mean @ covariance @ mean).item()
    largest = _largest(covariance)
    return LayerShift(
        n=int(moments.n),
        mean=mean.cpu(),
        variance=covariance.diagonal().clamp_min(0).cpu(),
        nu=nu,
        largest=largest,
        lower=nu + (max(along, 0.0) / nu if nu else 0.0),
        upper=nu + largest,
    )


def _largest(covariance: Float64[Tensor, "features features"]) -> float:
    """Top eigenvalue of a covariance; nan where an entry is not finite, 0 for no features."""
    if not bool(covariance.isfinite().all()):
        return math.nan
    return max(top_eigenvalue(covariance), 0.0)  # rounding may make a 0 negative
