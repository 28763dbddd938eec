"""Weight decay taken out of a step and applied beside it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class DecayOutside:
    """For the time of a step the groups have no weight decay; `share` says what it takes of each weight.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.ones(1)], lr=0.5, weight_decay=0.1)
        >>> outside = DecayOutside(optimizer)
        >>> outside.take()
        >>> optimizer.param_groups[0]["weight_decay"], outside.share(0)
        (0.0, 0.05)
        >>> outside.put_back()
        >>> optimizer.param_groups[0]["weight_decay"], outside.share(0)
        (0.1, 0.0)
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._taken: dict[int, tuple[dict[str, Any], Any]] = {}  # by number: the group and its decay

    def take(self) -> None:
        """Set the decay of all groups that have one to 0."""
        self.put_back()  # a step before may have ended in an exception
        for number, group in enumerate(self._optimizer.param_groups):
            decay = group.get("weight_decay")
            if decay is not None and (isinstance(decay, Tensor) or decay):
                self._taken[number] = group, decay
                group["weight_decay"] = 0.0

    def share(self, number: int) -> int | float | Tensor:
        """What the decay takes of the weights of this group: lr x weight_decay, as decoupled decay has it."""
        if number not in self._taken:
            return 0.0
        group, decay = self._taken[number]
        return group["lr"] * decay

    def put_back(self) -> None:
        """Give the groups their decay again."""
        for group, decay in self._taken.values():
            group["weight_decay"] = decay
        self._taken = {}
