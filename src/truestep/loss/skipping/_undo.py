"""What a step of several evaluations would have to put back, should one of the later ones spoil it."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Undo:
    """Weights and state of an optimizer (LBFGS) as they were before a step; two to three copies of the weights.

    History that the rule only appends to is not copied.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._weights = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
        self._state = {p: {key: _copied(value) for key, value in kept.items()} for p, kept in optimizer.state.items()}

    def is_spoiled(self) -> bool:
        """Whether a weight that was finite is not any more; waits for the device."""
        weights = [p.detach() for p, _ in self._weights if p.numel()]
        if not weights:
            return False
        sizes = torch._foreach_norm(weights, inf)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        return not bool(torch.stack([size.to(sizes[0].device) for size in sizes]).isfinite().all())

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back."""
        for p, before in self._weights:
            p.copy_(before)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return [*value] if isinstance(value, list) else value
