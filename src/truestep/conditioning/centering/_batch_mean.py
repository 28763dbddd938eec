"""The mean of each channel over a batch, over ranks too, with its gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from truestep.core._additive import reduced


def batch_mean(
    x: Float[Tensor, "samples channels *space"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, " channels"]:
    r"""Mean of each channel over samples and space, and over the ranks of `group`; float32 at least.

    .. math:: \mu = \frac{\sum_r \sum_n x_{rn}}{\sum_r N_r}

    Ranks count by what they have (also by nothing at all). Differentiable as often as you like: the gradient is that
    of the sum of all the ranks' losses, as in `torch.nn.SyncBatchNorm`, so that each rank of the group must run the
    backward pass as well.

    Args:
        x: Activations, channels second.
        group: Ranks to sum over, in one collective; None for this process alone.

    Example:
        >>> import torch
        >>> batch_mean(torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
        tensor([2.0000, 0.5000])
    """
    over = [dim for dim in range(x.dim()) if dim != 1]
    sums = x.sum(over, dtype=torch.promote_types(x.dtype, torch.float32))
    count = x.numel() // x.shape[1]
    if group is None:
        return sums / count
    total = _SumOverRanks.apply(torch.cat([sums, sums.new_full((1,), count)]), group)
    return total[:-1] / total[-1]


class _SumOverRanks(torch.autograd.Function):
    """A sum over ranks whose gradient is the sum of the ranks' gradients; torch's own is deprecated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return reduced(x.clone(), group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _SumOverRanks.apply(grads[0].contiguous(), ctx.group), None
