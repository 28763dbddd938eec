"""Standardizing: gradient descent in the coordinates in which a layer's inputs have mean 0 and covariance I."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
import torch.distributed as dist
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.conditioning._layers import Layer, grouped_rows
from truestep.conditioning.transforms._capture import Use
from truestep.conditioning.transforms._gradient_centering import row_sum
from truestep.conditioning.transforms._stepped import Stepped
from truestep.conditioning.transforms._transform import AbstractTransform, Gradient
from truestep.core import AbstractSum

Matrix = Literal["full", "diagonal"]
_DEAD: Final = 1e-10  # variance, in units of the largest or of the mean square, below which there is none
_ROUNDING: Final = 16  # ... and in units of the gradient's rounding: float32 cannot tell smaller ones from 0


@dataclass(frozen=True, slots=True)
class RowMoments(AbstractSum):
    """Number of rows that a layer multiplied, their sum, and that of their outer products or of their squares."""

    n: Float64[Tensor, ""]
    a: Float64[Tensor, "groups features"]
    aa: Float64[Tensor, "groups features *features"]

    def mean_and_spread(
        self, *, centered: bool
    ) -> tuple[Float64[Tensor, "groups features"], Float64[Tensor, "groups features *features"]]:
        """Mean and (co)variance; zeros and the second moment where not `centered`."""
        n = self.n.clamp_min(1)
        mean = self.a / n if centered else torch.zeros_like(self.a)
        outer = mean.square() if self.aa.dim() == 2 else mean[:, :, None] * mean[:, None, :]
        return mean, self.aa / n - outer


def row_moments(module: Layer, x: Float[Tensor, "..."], rows: int, matrix: Matrix = "full") -> RowMoments:
    """The `RowMoments` of a layer's input; `rows` is how many rows it has.

    Products are taken around the use's own mean in the input's format (float32 at least), so that the difference of
    float64 sums that makes the covariance loses nothing; only the squares of a convolution, for which no patches are
    laid out, are not (a relative error of about 1e-7 times the squared mean over the variance).

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
        >>> row_moments(nn.Linear(2, 1), x, 2).mean_and_spread(centered=True)[1]
        tensor([[[1., 2.],
                 [2., 4.]]], dtype=torch.float64)
        >>> row_moments(nn.Linear(2, 1), x, 2, "diagonal").mean_and_spread(centered=True)[1]
        tensor([[1., 4.]], dtype=torch.float64)
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if matrix == "diagonal":
        sums = row_sum(module, x, rows, torch.float64)
        mean = sums.mean if isinstance(module, nn.Linear) else torch.zeros_like(sums.a)  # the padding has no mean
        centered = x - mean[0].to(x) if isinstance(module, nn.Linear) else x
        return RowMoments(sums.n, sums.a, row_sum(module, centered.square(), rows, torch.float64).a + mean * sums.a)
    laid = grouped_rows(module, x)
    n = torch.full((), laid.shape[1], dtype=torch.float64, device=x.device)
    a = laid.sum(1, dtype=torch.float64)
    laid = laid - (a / n.clamp_min(1)).to(laid)[:, None, :]
    return RowMoments(n, a, (laid.mT @ laid).double() + a[:, :, None] * (a / n.clamp_min(1))[:, None, :])


def standardized(
    weight: Float[Tensor, "groups out features"],
    bias: Float[Tensor, "groups out"] | None,
    mean: Float64[Tensor, "groups features"],
    spread: Float64[Tensor, "groups features *features"],
    damping: int | float = 0.0,
) -> tuple[Float[Tensor, "groups out features"], Float[Tensor, "groups out"] | None]:
    r"""What gradient descent does to weight and bias of a layer that is given :math:`\Sigma^{-1/2}(a - m)`.

    .. math:: \Delta W = (G_W - g_b m^\top)\,\Sigma^{-1}, \qquad \Delta b = g_b - \Delta W\, m

    A descent direction, and the gradient times the inverse of :math:`\bar A = E[\bar a\bar a^\top]`, :math:`\bar a =
    (a; 1)`, from the right. Linear in the gradient, for any reduction of the loss.

    Args:
        weight: Gradient of the weight, one matrix a group.
        bias: Gradient of the bias, if there is one.
        mean: m; zeros without a bias.
        spread: :math:`\Sigma`, or its diagonal; the second moment without a bias.
        damping: Added to the variances in units of their mean. With 0 directions without variance are left out.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> standardized(6 * one[None], one, 2 * one, 4 * one[None])
        (tensor([[[1.]]], dtype=torch.float64), tensor([[-1.]], dtype=torch.float64))
    """
    dtype, rtol = weight.dtype, max(_DEAD, _ROUNDING * torch.finfo(weight.dtype).eps)
    weight = weight.double()
    if bias is not None:
        weight = torch.addcmul(weight, bias.double()[:, :, None], mean[:, None, :], value=-1)
    step = _scaled(weight, mean, spread, damping, rtol) if spread.dim() == 2 else _solved(weight, spread, damping, rtol)
    if bias is not None:
        bias = (bias.double() - (step @ mean[:, :, None])[:, :, 0]).to(dtype)
    return step.to(dtype), bias


def _scaled(weight: Tensor, mean: Tensor, variance: Tensor, damping: float, rtol: float) -> Tensor:
    """Columns over their variances."""
    dead = variance <= rtol * (variance + mean.square())
    if damping:
        variance, dead = variance.clamp_min(0) + _added(variance, damping), torch.zeros_like(dead)
    return (weight / variance.masked_fill(dead, 1)[:, None, :]).masked_fill(dead[:, None, :], 0)


def _solved(weight: Tensor, covariance: Tensor, damping: float, rtol: float) -> Tensor:
    """Rows times the inverse; nothing is read from the device where there is damping."""
    if not damping:
        return weight @ torch.linalg.pinv(covariance, rtol=rtol, hermitian=True)
    added = _added(covariance.diagonal(dim1=-2, dim2=-1), damping)
    damped = covariance + torch.diag_embed(added.expand(covariance.shape[:-1]))
    factor, _ = torch.linalg.cholesky_ex(damped)
    return torch.cholesky_solve(weight.mT, factor).mT


def _added(variances: Tensor, damping: float) -> Tensor:
    """Damping of each group; as if of variance 1 where there is none."""
    size = variances.mean(-1, keepdim=True)
    return damping * torch.where(size > 0, size, torch.ones_like(size))


class Standardizing(AbstractTransform[RowMoments]):
    r"""Steps as if the inputs of each Linear and Conv2d layer had mean 0 and covariance I; the network stays as it is.

    .. math:: \Delta W = (G_W - g_b m^\top)\,\Sigma^{-1}, \qquad \Delta b = g_b - \Delta W\, m,
        \qquad m = E[a], \quad \Sigma = \operatorname{Cov}[a]

    It is gradient descent in the coordinates :math:`\tilde W = W\Sigma^{1/2}, \tilde b = b + W m`, written in the old
    ones. The full form is the gradient times :math:`\bar A^{-1} \otimes I`: K-FAC with S = I, known as FOOF. It does
    not change when a layer's inputs are recoded by an affine map (without damping). `matrix="diagonal"` takes
    :math:`\Sigma` for diagonal and costs as little as `GradientCentering`.

    Means are over all rows that went into the gradient: samples, words, places of the image (with the padding's
    zeros), passes, micro-batches and ranks. The inputs' scale is in the step, so lr is another than SGD's. Layers
    without a bias have no mean to take out: their gradient is multiplied by the inverse second moment. Frozen layers
    and all other parameters keep their gradient. Gradients are transformed as they stand before the step, so after
    clipping; linear, so any reduction and any scale of the loss give the direction in their own units.

    Args:
        model: Bare, or wrapped by DistributedDataParallel or torch.compile (attach it before the first pass).
        optimizer: Any `torch.optim.Optimizer` with step hooks, except LBFGS; steps weight and bias of a layer.
        matrix: "full" or "diagonal". A full one has as many rows as a row has features (of a convolution: input
            channels times kernel size), is summed in float64 and factored at each step.
        ema: How much of the sums of the step before is kept, between 0 (this step alone) and 1. A full matrix of
            fewer rows than features is singular: let it remember, or damp it.
        damping: Added to each layer's variances in units of their mean. With 0 directions without variance (constant
            pixels, dead units) are left out of the step.
        group: Ranks that share the batch; None is all of them.

    Raises:
        ValueError: If no layer is left, parameters are sharded (FSDP), the optimizer takes no hooks or is LBFGS, or
            `matrix`, `ema` or `damping` is out of its range.

    Note:
        After the step the user's own gradient stands in `.grad` again. A skipped step advances nothing. Of a closure
        that is evaluated several times the first gradient alone is transformed.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        >>> transform = Standardizing(model, optimizer, damping=0.0)
        >>> x = torch.randn(50, 2) * torch.tensor([1.0, 10.0]) + 5
        >>> (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        >>> optimizer.step()  # Newton's, of a quadratic loss with lr 1/2
        >>> torch.allclose(model.weight, torch.ones(1, 2), atol=1e-3)
        True

    References:
        Grosse, CSC 2541 (2021), lecture 5, "ICS and Invariance". Note: Deviation: the lower right corner of
        :math:`R^{-1}` and of :math:`[RR^\top]^{-1}` is the identity of the bias's size, where the slide has 1. Benzing
        2022, Gradient descent on neurons and its link to approximate second-order optimization (FOOF). Desjardins et
        al. 2015, Natural neural networks.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        matrix: Matrix = "full",
        ema: int | float = 0.0,
        damping: int | float = 0.01,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if matrix not in get_args(Matrix):
            msg = f'`matrix` must be "full" or "diagonal", found {matrix!r}'
            raise ValueError(msg)
        if not 0 <= damping < float("inf"):
            msg = f"`damping` must be 0 or a positive number, in units of the mean variance, found {damping}"
            raise ValueError(msg)
        self._matrix: Matrix = matrix
        self._damping = damping
        super().__init__(model, optimizer, biased=False, ema=ema, group=group)

    def _summed(self, use: Use) -> RowMoments:
        return row_moments(use.module, use.x, use.rows, self._matrix)

    def _zeros(self, layer: Stepped) -> RowMoments:
        a = torch.zeros(layer.groups, layer.features, dtype=torch.float64, device=layer.weight.device)
        second = a if self._matrix == "diagonal" else a[:, :, None] * a[:, None, :]
        return RowMoments(a.new_zeros(()), a, second)

    def _direction(self, sums: RowMoments, gradient: Gradient, room: Tensor) -> Gradient:
        del room  # float64 on the way
        moments = sums.mean_and_spread(centered=gradient.bias is not None)
        return Gradient(*standardized(gradient.weight, gradient.bias, *moments, damping=self._damping))
