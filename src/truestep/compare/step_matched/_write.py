"""Weights written back at the wanted distance from where they were."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare.step_matched._extent import real


def write_(
    x: Tensor,
    before: Tensor,
    factor: Float64[Tensor, " rows"],
    decay: int | float | Tensor = 0.0,
    skipped: Tensor | None = None,
) -> None:
    r"""Move `x` to :math:`w + c\,(x - w) - \delta w`, row by row; waits for no device.

    Args:
        x: The weight after a step; written to.
        before: The weight :math:`w` before it.
        factor: :math:`c` of each row; nan leaves the row at the step it took.
        decay: :math:`\delta`, the share that is taken off besides.
        skipped: Where it is not 0 no bit changes.

    Example:
        >>> x = torch.tensor([[3.0, 1.0], [2.0, 0.0]])
        >>> write_(x, torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([2.0, torch.nan], dtype=torch.float64))
        >>> x
        tensor([[5., 1.],
                [2., 0.]])
    """
    x, before = real(x.detach()), real(before)
    wide = torch.promote_types(x.dtype, torch.float32)
    w, now = before.to(wide), x.to(wide)
    c = factor.to(x.device, wide).view(-1, *[1] * (x.dim() - 1)) if x.dim() else factor.to(x.device, wide).view(())
    new = torch.where(c.isnan(), now, w + c * (now - w))
    if isinstance(decay, Tensor) or decay:
        new = new - (decay.to(x.device, wide, non_blocking=True) if isinstance(decay, Tensor) else decay) * w
    if skipped is not None:
        new = torch.where(skipped.to(x.device).reshape(()) != 0, now, new)
    x.copy_(new)
