"""One mean loss a task, and how many terms it is the mean of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from truestep.multitask._rule import PerTask
from truestep.multitask.balancing._measure import spread

Loss = Float[Tensor, "..."]
Mask = Bool[Tensor, "..."] | Num[Tensor, "..."]
Number = int | float | Tensor
_WIDE: Final = (torch.float32, torch.float64)


def mean_loss(loss: Loss, mask: Mask | None) -> tuple[Float[Tensor, ""], Number]:
    """Mean over the samples whose label is there, in float32 at least, and 1; 0 and 0 where there is none.

    Example:
        >>> mean_loss(torch.tensor([1.0, torch.nan, 5.0]), torch.tensor([True, False, True]))[0]
        tensor(3.)
    """
    if mask is None and loss.dim() == 0 and loss.dtype in _WIDE:
        return loss, 1
    wide = torch.promote_types(loss.dtype, torch.float32)
    if loss.numel() == 0:
        return loss.sum(dtype=wide), 0  # no row of the batch is labelled
    if mask is None:
        return (loss.to(wide) if loss.dim() == 0 else loss.mean(dtype=wide)), 1
    keep = mask != 0
    number = keep.sum(dtype=wide)
    mean = torch.where(keep, loss, 0.0).sum(dtype=wide) / number.clamp_min(1.0)
    return mean, (number > 0).double()


def check_names(given: Collection[str], tasks: Collection[str], argument: str) -> None:
    """Raise a ValueError that names what is no task."""
    unknown = [name for name in given if name not in tasks]
    if unknown:
        msg = f"`{argument}` names {unknown[0]!r}, which is no task of this balancer: {', '.join(tasks)}"
        raise ValueError(msg)


def check_shapes(losses: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> None:
    """Raise a ValueError where a mask does not fit its losses, or there are none."""
    for task, keep in mask.items():
        if task not in losses or losses[task].shape != keep.shape or keep.dim() == 0:
            found = "no loss" if task not in losses else f"losses of shape {tuple(losses[task].shape)}"
            msg = (
                f"`mask` of {task!r} has shape {tuple(keep.shape)}, its task {found}: give the losses per sample"
                " (reduction='none') and one mask entry each"
            )
            raise ValueError(msg)


def counted(numbers: Mapping[str, Number], tasks: tuple[str, ...], device: torch.device) -> PerTask:
    """Numbers of terms by task, 0 where it is absent."""
    if not any(isinstance(n, Tensor) for n in numbers.values()):
        return _same(tuple(numbers.get(task, 0) for task in tasks), device)
    return spread({task: torch.as_tensor(n, dtype=torch.float64) for task, n in numbers.items()}, tasks, device)


@lru_cache(maxsize=64)
def _same(numbers: tuple[Number, ...], device: torch.device) -> PerTask:
    """The numbers as a tensor that nobody writes to: most steps have those of the step before."""
    return torch.tensor(numbers, dtype=torch.float64, device=device)
