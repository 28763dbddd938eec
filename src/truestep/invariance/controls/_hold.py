"""What the schedulers have in common that set lr from the weights as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import inf, isnan, nan
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.core import warn
from truestep.core._around import Around, check_beside, keeps
from truestep.core._hooks import check_hooks
from truestep.invariance.controls._groups import whole_groups


class AbstractHold(ABC):
    """Sets the lr of the groups of `params` before each step; each group is seen as one block.

    An lr that is no positive finite number leaves the last one; the step is `missed` unless the lr is nan, which says
    that there is nothing to hold. A plain lr is read from the device once for all groups; where lr is a tensor on the
    device it is written there, and nothing waits.
    """

    _cause: ClassVar[str]  # of a missed step, for the warning

    def __init__(
        self, optimizer: Optimizer, params: Mapping[str, Tensor], target: int | float, when: Literal["before", "ready"]
    ) -> None:
        check_hooks(optimizer)
        self._optimizer, self._target = optimizer, self._checked(target)
        self._held = whole_groups(optimizer, params)
        check_beside(optimizer, kept := keeps(type(self).__name__, ["lr"], params.values()))
        for group in map(self._group, self._held):
            if isinstance(group["lr"], Tensor):  # groups that were given none of their own share the default's tensor
                group["lr"] = group["lr"].clone()
        self._missed, self._warned = 0, False
        self._unread: Tensor | None = None  # misses that were counted on the device
        self._around = Around(optimizer, keeps=kept, **{when: self._set})

    @property
    def missed(self) -> int:
        """Steps, one for each group, that no lr could bring to what is held, since this was attached; reads the device.

        They were taken with the last lr. The first one warns; where lr is a tensor on a device, once this is read.
        """
        self._read()
        return self._missed

    @abstractmethod
    def _lr(self, group: dict[str, Any]) -> Float64[Tensor, ""]:
        """The lr of the step to come; nan where there is nothing to hold."""

    @staticmethod
    @abstractmethod
    def _checked(target: int | float) -> int | float:
        """`target`, or a ValueError."""

    def state_dict(self) -> dict[str, Any]:
        """What is held, as a plain number."""
        return {"target": self._target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what `state` held."""
        self._target = self._checked(state["target"])

    def close(self) -> None:
        """Take the hooks off; the lr stays as the last step had it. Reads the device."""
        self._around.close()
        self._read()

    def _group(self, index: int) -> dict[str, Any]:
        return self._optimizer.param_groups[index]

    @torch.no_grad()
    def _set(self) -> None:
        groups = [self._group(index) for index in self._held]
        lrs = [self._unless_skipped(self._lr(group)) for group in groups]
        plain = [i for i, group in enumerate(groups) if not _on_device(group["lr"])]
        read = torch.stack([lrs[i].to(lrs[plain[0]].device) for i in plain]).tolist() if plain else []
        for i, lr in zip(plain, read, strict=True):
            if 0 < lr < inf:
                _write(groups[i], lr)
        self._count(sum(not (isnan(lr) or 0 < lr < inf) for lr in read))
        for i in set(range(len(groups))).difference(plain):
            self._set_there(groups[i]["lr"], lrs[i])

    def _set_there(self, setting: Tensor, lr: Float64[Tensor, ""]) -> None:
        lr = lr.to(setting.device)
        held = (lr > 0) & lr.isfinite()
        setting.copy_(torch.where(held, lr, setting.reshape(()).double()).reshape(setting.shape))
        missed = (~held & ~lr.isnan()).long()
        self._unread = missed if self._unread is None else self._unread + missed.to(self._unread.device)

    def _unless_skipped(self, lr: Float64[Tensor, ""]) -> Float64[Tensor, ""]:
        """The same, and nan where a scaler has the step skipped: there is nothing to hold."""
        found_inf: Tensor | None = getattr(self._optimizer, "found_inf", None)
        return lr if found_inf is None else torch.where(found_inf.to(lr.device).reshape(()) != 0, nan, lr)

    def _read(self) -> None:
        unread, self._unread = self._unread, None
        self._count(0 if unread is None else int(unread))

    def _count(self, missed: int) -> None:
        self._missed += missed
        if missed and not self._warned:
            self._warned = True
            warn(f"{type(self).__name__}: {self._cause}; such steps are taken with the last lr, `missed` counts them")


def _on_device(setting: Any) -> bool:
    """Whether reading the setting would wait."""
    return isinstance(setting, Tensor) and setting.device.type != "cpu"


def _write(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
