"""What a user's `loss_fn` gives, as one mean."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def mean_loss(output: Any) -> tuple[Float[Tensor, ""], Float64[Tensor, ""] | None]:
    """Mean loss and total weight of what `loss_fn` gives; no weight for a scalar.

    Raises:
        ValueError: If it is neither a scalar nor (losses, weights) of one shape.

    Example:
        >>> mean_loss((torch.tensor([1.0, 5.0]), torch.tensor([3, 1])))
        (tensor(2.), tensor(4., dtype=torch.float64))
    """
    if isinstance(output, Tensor) and output.numel() == 1:
        return output.reshape(()), None
    if not (isinstance(output, (tuple, list)) and len(output) == 2 and isinstance(output[0], Tensor)):
        found = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        msg = f"`loss_fn` must give a scalar mean or (losses, weights), found {found}"
        raise ValueError(msg)
    losses = output[0].to(torch.promote_types(output[0].dtype, torch.float32))
    weights = torch.as_tensor(output[1], device=losses.device).detach().to(losses.dtype)
    if weights.shape != losses.shape:
        msg = f"`loss_fn` must give losses and weights of one shape, found {tuple(losses.shape)} and "
        raise ValueError(f"{msg}{tuple(weights.shape)}")
    total = weights.double().sum()
    summed = torch.where(weights != 0, losses * weights, torch.zeros_like(losses)).sum()
    return summed / torch.where(total == 0, torch.ones_like(total), total).to(summed.dtype), total
