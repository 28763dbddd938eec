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

    An input has no variance if its standard deviation is below 1/700 of the root of its mean square (float64: 1e-5):
    that small a difference of :math:`G_W` and :math:`g_b m^\top` is rounding. With damping it is divided by that least
    variance and adds nothing to the mean; a layer of such inputs alone steps with its bias alone.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> standardized(6 * one[None], one, 2 * one, 4 * one[None])
        (tensor([[[1.]]], dtype=torch.float64), tensor([[-1.]], dtype=torch.float64))
    """
    dtype, rtol = weight.dtype, max(_DEAD, _ROUNDING * torch.finfo(weight.dtype).eps)
    variance = spread if spread.dim() == 2 else spread.diagonal(dim1=-2, dim2=-1)
    least = rtol * (variance + mean.square())
    weight = weight.double()
    if bias is not None:
        weight = torch.addcmul(weight, bias.double()[:, :, None], mean[:, None, :], value=-1)
    if damping:
        step = _damped(weight, spread, variance, least, damping)
    else:
        step = _left_out(weight, spread, variance <= least, rtol)
    if bias is not None:
        bias = (bias.double() - (step @ mean[:, :, None])[:, :, 0]).to(dtype)
    return step.to(dtype), bias


def _left_out(weight: Tensor, spread: Tensor, dead: Tensor, rtol: float) -> Tensor:
    """Columns over their variances, or rows times the inverse, where there is any; 0 times infinity is NaN."""
    if spread.dim() == 2:
        return weight * torch.where(dead, 0, 1 / spread)[:, None, :]
    finite = spread.isfinite().flatten(1).all(1)[:, None, None]  # pinv raises at others
    solvable = spread.masked_fill(dead[:, :, None] | dead[:, None, :] | ~finite, 0)
    return torch.where(finite, weight @ torch.linalg.pinv(solvable, rtol=rtol, hermitian=True), torch.nan)


def _damped(weight: Tensor, spread: Tensor, variance: Tensor, least: Tensor, damping: float) -> Tensor:
    """The same with damping. Nothing is read from the device."""
    dead = variance <= least
    added = damping * variance.masked_fill(dead, 0).mean(-1, keepdim=True)
    whole = torch.maximum(variance, least) + added  # mere rounding must not divide
    step = weight * torch.where(dead.all(-1, keepdim=True), 0, 1 / whole)[:, None, :]
    if spread.dim() == 2:
        return step
    factor, info = torch.linalg.cholesky_ex(spread + torch.diag_embed(whole - variance))
    solved = torch.cholesky_solve(weight.mT, factor).mT
    usable = (info == 0) & ~dead.all(-1)  # a damping below the rounding of the products may leave no factor
    return torch.where(usable[:, None, None], solved, step)


class Standardizing(AbstractTransform[RowMoments]):
    r"""Steps as if the inputs of each Linear and Conv2d layer had mean 0 and covariance I; the network stays as it is.

    .. math:: \Delta W = (G_W - g_b m^\top)\,\Sigma^{-1}, \qquad \Delta b = g_b - \Delta W\, m,
        \qquad m = E[a], \quad \Sigma = \operatorname{Cov}[a]

    It is gradient descent in the coordinates :math:`\tilde W = W\Sigma^{1/2}, \tilde b = b + W m`, written in the old
    ones. The full form is the gradient times :math:`\bar A^{-1} \otimes I`: K-FAC with S = I, known as FOOF. It does
    not change when a layer's inputs are recoded by an affine map (without damping). `matrix="diagonal"` takes
    :math:`\Sigma` for diagonal: on a CPU, for an MLP of 512-wide layers, a step takes 1.34 times as long as SGD's at
    batch 128 (1.73 at 32, 1.16 at 512), where the full form takes 8.6 and `GradientCentering` 1.13 times as long.

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
            pixels, dead units) are left out of the step. An input whose standard deviation is below 1/700 of its root
            mean square (float64: 1e-5) counts as constant: center raw features ahead of the model. Of a layer that
            has no other inputs the bias alone steps, with any damping.
        group: Ranks that share the batch; None is all of them.

    Raises:
        ValueError: If no layer is left, parameters are sharded (FSDP), the optimizer takes no hooks or is LBFGS, or
            `matrix`, `ema` or `damping` is out of its range, or a transform is on one of the layers.

    Note:
        After the step the user's own gradient stands in `.grad` again. A skipped step advances nothing. Each evaluation
        of a closure is transformed.

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
