"""The gradient through a normalization layer with its statistics held fixed, against the whole of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from truestep.conditioning.centering._batch_center import AbstractBatchCenter
from truestep.core import AbstractSum
from truestep.core._additive import reduced

Normalization = _BatchNorm | _InstanceNorm | nn.LayerNorm | nn.RMSNorm | nn.GroupNorm | AbstractBatchCenter


@dataclass(frozen=True, slots=True)
class PathSums(AbstractSum):
    """Squared norms of gradients through a normalization layer: at its input, and at the weight that feeds it.

    Args:
        direct: At its input, with the statistics held fixed.
        full: At its input.
        weight_direct: At the weight of the linear layer or convolution whose output it takes; 0 where there is none.
        weight_full: The same for the full gradient.
    """

    direct: Float64[Tensor, ""]
    full: Float64[Tensor, ""]
    weight_direct: Float64[Tensor, ""]
    weight_full: Float64[Tensor, ""]

    @property
    def ratio(self) -> Float64[Tensor, ""]:
        """|direct| / |full| at the input; nan where no gradient came."""
        return (self.direct / self.full).sqrt()

    @property
    def weight_ratio(self) -> Float64[Tensor, ""]:
        """|direct| / |full| at the weight before; nan where there is none."""
        return (self.weight_direct / self.weight_full).sqrt()


@torch.no_grad()
def slope(module: Normalization, x: Float[Tensor, "..."]) -> Float64[Tensor, "..."]:
    r"""Derivative of each output by its own input with the statistics held fixed, as broadcast over `x`.

    .. math:: y = \gamma\, \frac{x - \mu}{\sigma} + \beta, \qquad
        \bar x_{\text{direct}} = \frac{\gamma}{\sigma}\, \bar y, \qquad
        \bar x = \bar x_{\text{direct}} + \text{the path through } \mu(x) \text{ and } \sigma(x)

    For batch normalization in training mode the statistics are those of `x` (over the ranks for SyncBatchNorm), in
    evaluation the running ones, which no gradient passes: there both are the same. Instance normalization has running
    ones only if it was told to keep them. `torch.nn.RMSNorm` has :math:`\mu = 0` and :math:`\sigma^2` the mean square.

    Example:
        >>> import torch
        >>> x = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])
        >>> slope(torch.nn.BatchNorm1d(2, eps=1.0), x)
        tensor([0.3162, 1.0000], dtype=torch.float64)
    """
    if isinstance(module, AbstractBatchCenter):
        return x.new_ones((), dtype=torch.float64)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        gamma, square = module.weight, _of_last(module, x.double())
    else:
        places, channels = _places(module, x), cast("Tensor | None", module.weight)
        gamma = None if channels is None else channels.view(-1, *[1] * places)
        square = _square(module, x, places)
    inverse = (square + _eps(module, x)).rsqrt()
    return inverse if gamma is None else gamma.detach().double() * inverse


def _eps(module: _BatchNorm | _InstanceNorm | nn.LayerNorm | nn.RMSNorm | nn.GroupNorm, x: Tensor) -> float:
    """What the layer adds; RMSNorm's own is that of the number format it computes in, which is never a half one."""
    if module.eps is not None:
        return module.eps
    return torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps


def _of_last(module: nn.LayerNorm | nn.RMSNorm, x: Tensor) -> Tensor:
    dims = tuple(range(-len(module.normalized_shape), 0))
    if isinstance(module, nn.RMSNorm):
        return x.square().mean(dims, keepdim=True)
    return x.var(dims, correction=0, keepdim=True)


def _places(module: _BatchNorm | _InstanceNorm | nn.GroupNorm, x: Tensor) -> int:
    """How many dimensions of places follow that of the channels; only instance norms take single samples."""
    if isinstance(module, _InstanceNorm):
        return module._get_no_batch_dim() - 1  # pyright: ignore[reportPrivateUsage]
    return x.dim() - 2


def _square(module: _BatchNorm | _InstanceNorm | nn.GroupNorm, x: Tensor, places: int) -> Tensor:
    """Variance that the layer divides by, as broadcast over `x` [N, C, ...]."""
    if isinstance(module, nn.GroupNorm):
        return _of_groups(x, module.num_groups)
    if not module.training and module.running_var is not None:
        return module.running_var.double().view(-1, *[1] * places)
    if isinstance(module, _InstanceNorm):
        return x.double().var(tuple(range(-places, 0)), correction=0, keepdim=True)
    return _of_batch(module, x.double()).view(-1, *[1] * places)


def _of_groups(x: Tensor, groups: int) -> Tensor:
    samples, channels = x.shape[:2]
    variance = x.double().reshape(samples, groups, -1).var(-1, correction=0)
    return variance.repeat_interleave(channels // groups, 1).view(samples, channels, *[1] * (x.dim() - 2))


def _of_batch(module: _BatchNorm, x: Tensor) -> Tensor:
    dims = [dim for dim in range(x.dim()) if dim != 1]
    if not (isinstance(module, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized()):
        return x.var(dims, correction=0)
    count = x.new_full((x.shape[1],), x.numel() / x.shape[1])
    sums = reduced(torch.stack([count, x.sum(dims), x.square().sum(dims)]), module.process_group)
    return (sums[2] / sums[0] - (sums[1] / sums[0]).square()).clamp_min(0)
