"""What the schedulers have in common that set lr from the weights as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.core._around import Around
from truestep.core._hooks import check_hooks
from truestep.invariance.controls._groups import whole_groups


class AbstractHold(ABC):
    """Sets the lr of the groups of `params` before each step; each group is seen as one block.

    An lr that is no positive finite number (of a zero gradient, say) leaves the last one. A plain lr is read from the
    device once for all groups; where lr is a tensor it is written there, and nothing waits.
    """

    def __init__(
        self, optimizer: Optimizer, params: Mapping[str, Tensor], target: int | float, when: Literal["before", "ready"]
    ) -> None:
        check_hooks(optimizer)
        self._optimizer, self._target = optimizer, target
        self._held = whole_groups(optimizer, params)
        for group in map(self._group, self._held):
            if isinstance(group["lr"], Tensor):  # groups that were given none of their own share the default's tensor
                group["lr"] = group["lr"].clone()
        self._around = Around(optimizer, before=self._set) if when == "before" else Around(optimizer, ready=self._set)

    @abstractmethod
    def _lr(self, group: dict[str, Any]) -> Float64[Tensor, ""]:
        """The lr of the step to come."""

    def state_dict(self) -> dict[str, Any]:
        """What is held, as a plain number."""
        return {"target": self._target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what `state` held."""
        self._target = state["target"]

    def close(self) -> None:
        """Take the hooks off; the lr stays as the last step had it."""
        self._around.close()

    def _group(self, index: int) -> dict[str, Any]:
        return self._optimizer.param_groups[index]

    @torch.no_grad()
    def _set(self) -> None:
        groups = [self._group(index) for index in self._held]
        lrs = [self._lr(group) for group in groups]
        plain = [i for i, group in enumerate(groups) if not isinstance(group["lr"], Tensor)]
        read = torch.stack([lrs[i].to(lrs[plain[0]].device) for i in plain]).tolist() if plain else []
        for i, lr in zip(plain, read, strict=True):
            groups[i]["lr"] = lr if isfinite(lr) and lr > 0 else groups[i]["lr"]
        for i in set(range(len(groups))).difference(plain):
            setting: Tensor = groups[i]["lr"]
            lr = lrs[i].to(setting).reshape(setting.shape)
            setting.copy_(torch.where(lr.isfinite() & (lr > 0), lr, setting))
