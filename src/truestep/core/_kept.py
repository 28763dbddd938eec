"""Kept copies: what the weights and, where a step overwrites them, the gradients were before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from truestep.core._sharding import local

_REWRITTEN = "SGD"  # torch.optim's only rule that writes into .grad (nesterov with foreach)


class Buffers:
    """One kept buffer a block; refilled, never allocated anew while shapes stay."""

    def __init__(self) -> None:
        self._of: dict[str, Tensor] = {}

    def fill(self, names: Sequence[str], sources: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Copies of `sources`; sparse ones are cloned, `None` stays, and buffers of other names are let go."""
        old, self._of = self._of, {}
        copies = [None if x is None else self._place(old, name, x) for name, x in zip(names, sources, strict=True)]
        dense = [(c, x) for c, x in zip(copies, sources, strict=True) if x is not None and x.layout == torch.strided]
        if dense:
            torch._foreach_copy_([c for c, _ in dense if c is not None], [x for _, x in dense])  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        return copies

    def _place(self, old: dict[str, Tensor], name: str, source: Tensor) -> Tensor:
        if source.layout != torch.strided:
            return source.clone()
        kept = old.get(name)
        if kept is None or not _alike(kept, source):
            kept = torch.empty_like(source)
        self._of[name] = kept
        return kept


@dataclass(frozen=True, slots=True)
class Used:
    """Gradients that a step used; `raw`: as they stood before it, still times a scale that the step takes out."""

    grads: list[Tensor | None]
    known: bool
    raw: bool


class UsedGradient:
    """The gradient that an optimizer's step used, copied only where the step or a closure overwrites it.

    `ready()` when the gradients stand (before the step, or after a closure's first evaluation), `stale()` before
    anything evaluates them again, `after()` once the step is done.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._buffers = Buffers()
        self.keep = not _from_torch(optimizer) or _writes_gradients(optimizer)
        self._names: Sequence[str] = ()
        self._params: Sequence[Tensor] = ()
        self._copies: list[Tensor | None] | None = None
        self._seen: list[tuple[Tensor | None, int]] | None = None

    def begin(self, names: Sequence[str], params: Sequence[Tensor]) -> None:
        """Forget the step before; these are the blocks of the one that begins."""
        self._names, self._params, self._copies, self._seen = names, params, None, None

    def ready(self) -> None:
        """Note the gradients that now stand, and copy them if the rule is known, or not known not, to overwrite."""
        self._seen = [_state(p.grad) for p in self._params]
        if self.keep:
            self.stale()

    def stale(self) -> None:
        """Copy the noted gradients: something is about to evaluate them again."""
        if self._copies is None:
            grads = [None if p.grad is None else local(p.grad) for p in self._params]
            self._copies = self._buffers.fill(self._names, grads)

    def after(self) -> Used:
        """What the step used; where it was overwritten unseen it is not `known`, and kept from the next step on."""
        now = [p.grad for p in self._params]
        intact = self._seen is None or all(_same(_state(g), seen) for g, seen in zip(now, self._seen, strict=True))
        copies, self._copies, self._seen = self._copies, None, None
        if copies is not None:
            if intact and not _writes_gradients(self._optimizer) and _unwritten(copies, now):
                self.keep, self._buffers = False, Buffers()  # learned: this rule leaves .grad alone
            return Used(copies, known=True, raw=True)
        fused = _is_fused(self._optimizer)
        self.keep = self.keep or not (intact or fused)
        return Used([None if g is None else local(g) for g in now], known=intact or fused, raw=not fused)


def _state(grad: Tensor | None) -> tuple[Tensor | None, int]:
    return (grad, -1) if grad is None else (grad, grad._version)


def _same(a: tuple[Tensor | None, int], b: tuple[Tensor | None, int]) -> bool:
    return a[0] is b[0] and a[1] == b[1]


def _unwritten(copies: list[Tensor | None], now: list[Tensor | None]) -> bool:
    """Whether the values still stand; old rules write through `grad.data`, which leaves the version as it was."""
    pairs = [(c, local(g)) for c, g in zip(copies, now, strict=True) if c is not None and g is not None]
    return all(torch.equal(_values(c), _values(g)) for c, g in pairs)


def _values(x: Tensor) -> Tensor:
    return x if x.layout == torch.strided else x._values()


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and a.stride() == b.stride()


def _from_torch(optimizer: Optimizer) -> bool:
    return type(optimizer).__module__.startswith("torch.optim")


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return optimizer.param_groups


def _is_fused(optimizer: Optimizer) -> bool:
    """Fused kernels of torch name .grad as written, but only take the gradient scaler's scale out of it."""
    return _from_torch(optimizer) and all(group.get("fused") for group in _groups(optimizer))


def _writes_gradients(optimizer: Optimizer) -> bool:
    if not (_from_torch(optimizer) and type(optimizer).__name__ == _REWRITTEN):
        return False
    return any(group.get("nesterov") and _runs_foreach(group) for group in _groups(optimizer))


def _runs_foreach(group: dict[str, Any]) -> bool:
    if group.get("fused"):
        return False
    foreach = group.get("foreach")
    return any(p.is_cuda for p in group["params"]) if foreach is None else bool(foreach)
