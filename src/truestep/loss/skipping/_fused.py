"""Optimizers that ask on the device whether to step, and what they ask."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import SGD, Optimizer


def asks_found_inf(optimizer: Optimizer) -> bool:
    """Whether the step leaves all as it is where `optimizer.found_inf` is 1: torch's own rules, fused.

    A subclass may do more in its step than its base does.
    """
    own = type(optimizer).__module__.startswith("torch.optim")
    return own and all(group.get("fused") for group in optimizer.param_groups)


def has_state(optimizer: Optimizer, group: dict[str, Any], p: Tensor) -> bool:
    """Whether a fused step that is told to move nothing would create no state for `p` either.

    Fused SGD would leave a momentum of uninitialised memory, and add the next gradient to it.
    """
    if isinstance(optimizer, SGD) and not group["momentum"]:
        return True
    state: dict[str, Any] = optimizer.state.get(p, {})
    return any(value is not None for value in state.values())


class FoundInf:
    """`optimizer.found_inf` for the time of a step: 1 tells a fused step to move nothing, and others that none moved.

    A gradient scaler's own is put back afterwards.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._told: tuple[Tensor, Tensor | None] | None = None  # ours, and whose place it took

    @property
    def present(self) -> Tensor | None:
        """What the optimizer would read now."""
        return getattr(self._optimizer, "found_inf", None)

    def tell(self, found: Tensor) -> None:
        """Let the optimizer read `found`."""
        before = self.present if self._told is None else self._told[1]
        self._told = found, before
        self._optimizer.found_inf = found  # type: ignore[attr-defined]

    def put_back(self) -> None:
        """As it was before `tell`; what somebody else wrote since stays."""
        if self._told is not None and self.present is self._told[0]:
            if self._told[1] is None:
                del self._optimizer.found_inf  # type: ignore[attr-defined]
            else:
                self._optimizer.found_inf = self._told[1]  # type: ignore[attr-defined]
        self._told = None
