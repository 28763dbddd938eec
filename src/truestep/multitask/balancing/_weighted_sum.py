"""The sum of the weighted losses: the scalar that goes backward."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from truestep.multitask._rule import PerTask
from truestep.multitask.balancing._split import Split


class WeightedSum:
    """Adds up losses times weights, in the widest of their number formats, in two operations for any number of tasks.

    Args:
        tasks: Names, in the order of the weights.
    """

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self.tasks = tasks
        self._places: dict[tuple[str, ...], Tensor] = {}  # of the tasks that a batch had, kept on the device

    def __call__(self, losses: Mapping[str, Tensor], weights: PerTask, split: Split | None) -> Float[Tensor, ""]:
        """The sum over the tasks that are there; of none of them a zero that goes backward through the features.

        Raises:
            ValueError: No loss, and no features that are trained.
        """
        if not losses:
            return self._nothing(split)
        wide = max((x.dtype for x in losses.values()), key=lambda dtype: dtype.itemsize)  # float32 or float64
        stacked = torch.stack([x.to(weights.device, wide) for x in losses.values()])
        own = weights.clone() if (*losses,) == self.tasks else weights[self._places_of((*losses,), weights.device)]
        return (stacked * own.to(wide)).sum()

    def _nothing(self, split: Split | None) -> Float[Tensor, ""]:
        if split is None or not split.features:
            msg = "`losses` is empty: give at least one task's loss"
            raise ValueError(msg)
        return torch.stack([x.reshape(-1)[:0].sum() for x in split.features]).sum()

    def _places_of(self, tasks: tuple[str, ...], device: torch.device) -> Tensor:
        if tasks not in self._places or self._places[tasks].device != device:
            self._places[tasks] = torch.tensor([self.tasks.index(task) for task in tasks], device=device)
        return self._places[tasks]
