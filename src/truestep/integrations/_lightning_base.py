"""What every callback for Lightning needs: the class it is made from, a run that it can measure, its gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:  # said when one is built
        Callback = object

__all__ = ["Callback", "gradients", "refuse", "require_lightning", "scalar"]


def require_lightning() -> None:
    """Raise where Lightning is not installed.

    Raises:
        ImportError: With the install line.
    """
    if Callback is object:
        msg = "this needs lightning: pip install 'truestep[lightning]'"
        raise ImportError(msg)


def refuse(trainer: Any, module: Any) -> None:
    """Raise where windows of micro-batches are not Lightning's.

    Raises:
        ValueError: Manual optimization, or a strategy that accumulates by itself.
    """
    if not module.automatic_optimization:
        msg = "`module` must have automatic_optimization: in manual optimization, divide and `tally.finish` yourself"
        raise ValueError(msg)
    if trainer.strategy.handles_gradient_accumulation:
        msg = f"`strategy` must leave accumulation to Lightning; {type(trainer.strategy).__name__} does it by itself"
        raise ValueError(msg)


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """Those that the optimizer will step on."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def scalar(value: int | float, module: Any) -> Tensor:
    """In float64 on the module's device, without a copy from the host."""
    return torch.full((), value, dtype=torch.float64, device=module.device)
