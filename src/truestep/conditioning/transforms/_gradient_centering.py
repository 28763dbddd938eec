"""Gradient centering: the step that a layer with centred inputs would take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.conditioning._layers import Layer, grouped_rows
from truestep.conditioning.transforms._capture import Use
from truestep.conditioning.transforms._stepped import Stepped
from truestep.conditioning.transforms._transform import AbstractTransform, Gradient
from truestep.core import AbstractSum


@dataclass(frozen=True, slots=True)
class RowSum(AbstractSum):
    """Number of rows that a layer multiplied, and their sum, one row a group."""

    n: Float64[Tensor, ""]
    a: Float64[Tensor, "groups features"]

    @property
    def mean(self) -> Float64[Tensor, "groups features"]:
        """Mean row; 0 for no rows."""
        return self.a / self.n.clamp_min(1)


def row_sum(module: Layer, x: Float[Tensor, "..."], rows: int, dtype: torch.dtype | None = None) -> RowSum:
    """The `RowSum` of a layer's input, which has `rows` rows; summed in `dtype`, or its own format (float32 at least).

    Patches are never laid out: padding and unfolding are linear, so they come after the sum over images.

    Example:
        >>> row_sum(nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [3.0, 6.0]]), 2).mean
        tensor([[2., 4.]], dtype=torch.float64)
    """
    dtype = dtype or torch.promote_types(x.dtype, torch.float32)
    if isinstance(module, nn.Linear):
        a = x.reshape(-1, x.shape[-1]).sum(0, keepdim=True, dtype=dtype)
    else:
        images = x if x.dim() == 4 else x[None]
        a = grouped_rows(module, images.sum(0, keepdim=True, dtype=dtype)).sum(1)
    return RowSum(torch.full((), rows, dtype=torch.float64, device=x.device), a.double())


def centered(
    weight: Float[Tensor, "groups out features"],
    bias: Float[Tensor, "groups out"],
    mean: Float[Tensor, "groups features"],
    room: Float[Tensor, "groups out features"] | None = None,
) -> tuple[Float[Tensor, "groups out features"], Float[Tensor, "groups out"]]:
    r"""What gradient descent does to weight and bias of a layer that is given :math:`a - m` instead of :math:`a`.

    .. math:: \Delta W = G_W - g_b m^\top, \qquad \Delta b = g_b - \Delta W\, m

    A descent direction: its inner product with the gradient is :math:`\|\Delta W\|^2 + \|g_b\|^2`. Without the second
    half it is none. Linear in the gradient, so any reduction and scale of the loss stays what it was.

    Args:
        weight: Gradient of the weight, one matrix a group.
        bias: Gradient of the bias.
        mean: Mean of the rows.
        room: Where the first result is written, if given.

    Example:
        >>> weight, bias, mean = torch.tensor([[[1.5, 0.0]]]), torch.ones(1, 1), torch.tensor([[3.0, 0.0]])
        >>> centered(weight, bias, mean)
        (tensor([[[-1.5000,  0.0000]]]), tensor([[5.5000]]))
    """
    weight = torch.addcmul(weight, bias[:, :, None], mean[:, None, :], value=-1, out=room)
    return weight, torch.baddbmm(bias[:, :, None], weight, mean[:, :, None], alpha=-1)[:, :, 0]


class GradientCentering(AbstractTransform[RowSum]):
    r"""Steps as if the inputs of each Linear and Conv2d layer had mean zero; the network stays as it is.

    .. math:: \Delta W = G_W - g_b m^\top, \qquad \Delta b = g_b - \Delta W\, m, \qquad m = \operatorname{mean}(a)

    Inputs with a mean far from zero (logistic and ReLU units) give each layer's curvature outlier eigenvalues of
    :math:`\nu = \|m\|^2 + 1` times those of its outputs, which bound lr. These are gone here, at the cost of one sum
    over the inputs and two passes over the gradient. `Standardizing` also takes the inputs' variance out.

    It is not what goes by the name of gradient centralization (Yong et al. 2020), which subtracts from each row of
    :math:`G_W` its own mean and knows nothing of the inputs.

    m is the mean over all rows that went into the gradient: samples, words, places of the image (with the padding's
    zeros), passes, micro-batches and ranks. Layers without bias, frozen layers and all other parameters keep their
    gradient. Gradients are transformed as they stand before the step, so after clipping. Any `reduction` of the loss
    and any scale give the direction in their own units: the transform is linear.

    Centred inputs give the same steps under rules that are linear in the gradient (SGD, momentum); Adam scales each
    element of both parts by itself.

    Args:
        model: Bare, or wrapped by DistributedDataParallel or torch.compile (attach it before the first pass).
        optimizer: Any `torch.optim.Optimizer` with step hooks, except LBFGS; steps weight and bias of a layer.
        ema: How much of the sums of the step before is kept, between 0 (m of this step alone) and 1.
        group: Ranks that share the batch; None is all of them.

    Raises:
        ValueError: If no layer is left, parameters are sharded (FSDP), the optimizer takes no hooks or is LBFGS, or
            `ema` is out of its range, or a transform is on one of the layers (`.close()` it first).

    Note:
        Other hooks of the optimizer (`watch`) find the transformed gradient; behind them all the user's own stands in
        `.grad` again. A skipped step advances nothing. Each evaluation of a closure is transformed. Layers that are
        unfrozen or given to the optimizer later keep their gradient, with one warning: close this, attach a new one.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> transform = GradientCentering(model, optimizer)
        >>> x, before = torch.randn(50, 2) + 5, model.weight.detach().clone()
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
        >>> uncentred = torch.outer(model.bias.grad, x.mean(0))  # most of the gradient
        >>> torch.allclose(model.weight, before - 0.1 * (model.weight.grad - uncentred))
        True

    References:
        Grosse, CSC 2541 (2021), lecture 5, "ICS and Invariance", with Sigma = I: the corner of R is the identity, of
        the bias's size, where the slide has 1. LeCun, Kanter and Solla 1991, Second order properties of error surfaces.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        ema: int | float = 0.0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(model, optimizer, biased=True, ema=ema, group=group)

    def _summed(self, use: Use) -> RowSum:
        return row_sum(use.module, use.x, use.rows)

    def _zeros(self, layer: Stepped) -> RowSum:
        a = torch.zeros(layer.groups, layer.features, dtype=torch.float64, device=layer.weight.device)
        return RowSum(a.new_zeros(()), a)

    def _direction(self, sums: RowSum, gradient: Gradient, room: Tensor) -> Gradient:
        if gradient.bias is None:  # only layers with a bias are here
            return gradient
        mean = sums.mean.to(gradient.weight)
        return Gradient(*centered(gradient.weight, gradient.bias, mean, room))
