"""Optimizer hooks that turn a step into a `Step`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import nan
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from truestep.core._gram import Gram
from truestep.core._kept import Buffers, UsedGradient
from truestep.core._measure import Block, list_blocks, measure
from truestep.core._products import Scratch
from truestep.core._settings import asked_of
from truestep.core._sharding import local
from truestep.core._step import Step

Names = Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def always(index: int) -> bool:
    """Record every step."""
    return index >= 0


class Recorder:
    """Step hooks on one optimizer: each due step is measured from the weights and handed over as a `Step`.

    The displacement is the difference of the weights, so it is what happened in every number format; the gradient
    is the one that the optimizer used, also with a closure, a gradient scaler or a rule that overwrites `.grad`.
    Nothing of the run is changed, and a step that is not due costs two function calls and no host sync.

    Args:
        params: Parameters by name, or a function that returns them (asked again when the optimizer's set changes).
        optimizer: Any `torch.optim.Optimizer` with step hooks.
        on_step: Takes each recorded `Step`; its `loss` and `samples` are nan, as an optimizer knows none.
        due: Which step numbers to record; on several ranks that shard tensors it must answer alike on all.
        name: Name of the optimizer in the steps; its class by default.
        units: Names of parameters to be recorded one unit (slice of dimension 0) at a time.
        on_end: Called after every step, recorded or not, with its number and whether it was skipped (a tensor
            where a fused optimizer's gradient scaler knows, else False).

    Raises:
        ValueError: If the optimizer has no hooks (the message names the inner one to pass), or none of its
            parameters is in `params`.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> steps = []
        >>> recorder = Recorder({"weight": weight}, optimizer, steps.append)
        >>> weight.grad = torch.tensor([0.0, 2.0])
        >>> optimizer.step()
        >>> steps[0].took.dd, steps[0].asked.lr
        (tensor([1.], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
        >>> recorder.close()
    """

    def __init__(
        self,
        params: Names,
        optimizer: Optimizer,
        on_step: Callable[[Step], None],
        *,
        due: Callable[[int], bool] = always,
        name: str | None = None,
        units: Iterable[str] = (),
        on_end: Callable[[int, Any], None] | None = None,
    ) -> None:
        check_hooks(optimizer)
        self.name = name or type(optimizer).__name__
        self.index = 0
        self.seconds = 0.0  # spent on recorded steps, in all
        self._names, self._units = params, frozenset(units)
        self._on_step, self._on_end, self._due = on_step, on_end, due
        self._optimizer = optimizer
        self._weights, self._gradient = Buffers(), UsedGradient(optimizer)
        self._scratch: dict[torch.device, Scratch] = {}
        self._depth = 0
        self._pending: tuple[list[Block], list[Tensor | None]] | None = None
        if not list_blocks(params, optimizer, self._units):
            msg = "`optimizer` holds none of the model's parameters; pass the optimizer that steps this model"
            raise ValueError(msg)
        # torch.compile must neither trace nor specialise on our counters: graph break at the hooks, eager inside
        self._measured_before = not_compiled(self._before, recursive=True)
        self._measured_after = not_compiled(self._after, recursive=True)
        self._handles = (
            optimizer.register_step_pre_hook(not_compiled(self._pre)),
            optimizer.register_step_post_hook(not_compiled(self._post)),
        )

    def close(self) -> None:
        """Take the hooks off; the optimizer goes on as if there had been none."""
        for handle in self._handles:
            handle.remove()
        self._pending = None
        self._weights, self._scratch = Buffers(), {}

    def _pre(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Arguments | None:
        if self._depth and _inside_step(optimizer):
            self._depth += 1  # a subclass's step calls its base's, which carries the hooks too
            return None
        self._depth = 1
        if self._due(self.index):
            return self._measured_before(args, kwargs)
        self._pending = None
        return None

    def _post(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        self._depth -= 1
        if self._depth > 0:
            return
        self._depth = 0
        skipped = getattr(optimizer, "found_inf", None)
        if self._pending is not None:
            skipped = self._measured_after()
        self.index += 1
        if self._on_end is not None:
            self._on_end(self.index - 1, False if skipped is None else skipped)

    @torch.no_grad()
    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        start = _now(self._optimizer)
        blocks = list_blocks(self._names, self._optimizer, self._units)
        names, params = [block.name for block in blocks], [block.param for block in blocks]
        self._pending = blocks, self._weights.fill(names, [local(p) for p in params])
        self._gradient.begin(names, params)
        changed = self._with_closure(args, kwargs)
        if changed is None:
            self._gradient.ready()
        self.seconds += _now(self._optimizer) - start
        return changed

    def _with_closure(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """The step's arguments with its closure wrapped; None where there is none."""
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._wrapped(kwargs["closure"])}
        if len(args) > 1 and callable(args[1]):  # args[0] is the optimizer
            return (args[0], self._wrapped(args[1]), *args[2:]), kwargs
        return None

    def _wrapped(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, noting the gradients after its first evaluation: those are the gradients at w."""
        evaluations = 0

        def evaluate() -> Any:
            nonlocal evaluations
            evaluations += 1
            if evaluations == 2:
                with torch.no_grad():
                    self._gradient.stale()
            loss = closure()
            if evaluations == 1:
                with torch.no_grad():
                    self._gradient.ready()
            return loss

        return evaluate

    @torch.no_grad()
    def _after(self) -> bool:
        if self._pending is None:
            return False
        start = _now(self._optimizer)
        (blocks, before), self._pending = self._pending, None
        used = self._gradient.after()
        found_inf: Tensor | None = getattr(self._optimizer, "found_inf", None)
        skipped = found_inf is not None and bool(found_inf)
        scale = getattr(self._optimizer, "grad_scale", None) if used.raw or skipped else None
        names, columns = measure(blocks, before, used, scale, self._scratch)
        groups = [block.group for block, rows in zip(blocks, columns, strict=True) for _ in range(rows.shape[0])]
        step = Step(
            optimizer=self.name,
            index=self.index,
            time=time.time(),
            loss=nan,
            samples=nan,
            skipped=skipped,
            names=names,
            asked=asked_of(self._optimizer.param_groups, groups),
            took=Gram.from_columns(torch.cat(columns)),
        )
        self.seconds += _now(self._optimizer) - start
        self._on_step(step)
        return skipped


def not_compiled(function: Any, *, recursive: bool = False) -> Any:
    """`function` as torch.compile must leave it: called as it stands, with all that it calls if `recursive`.

    The recursive form costs half a microsecond a call, so that the every-step path takes the other.
    """
    return torch.compiler.disable(function, recursive=recursive)


def check_hooks(optimizer: Any) -> None:
    """Raise a ValueError naming the inner optimizer where `optimizer` is a wrapper that takes no step hooks."""
    if isinstance(optimizer, Optimizer) and hasattr(optimizer, "_optimizer_step_pre_hooks"):
        return
    kind = type(optimizer).__name__
    for name, inner in _attributes(optimizer):
        if isinstance(inner, Optimizer) and hasattr(inner, "_optimizer_step_pre_hooks"):
            msg = f"`optimizer` is a {kind}, a wrapper without step hooks; pass the optimizer inside it: `.{name}`"
            raise ValueError(msg)
    msg = f"`optimizer` must be a torch.optim.Optimizer (it needs step hooks), found {kind}"
    raise ValueError(msg)


def _attributes(wrapper: Any) -> list[tuple[str, Any]]:
    """Attributes of a wrapper, `optimizer` first, the public before the private."""
    found = dict(vars(wrapper)) if hasattr(wrapper, "__dict__") else {}
    found = {"optimizer": getattr(wrapper, "optimizer", None), **found}
    return sorted(found.items(), key=lambda item: (item[0] != "optimizer", item[0].startswith("_")))


def _inside_step(optimizer: Optimizer) -> bool:
    """Whether an earlier step of this optimizer is still on the stack (else it ended in an exception)."""
    frame, seen = sys._getframe(2), 0  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if frame.f_code.co_name == "wrapper" and frame.f_locals.get("self") is optimizer:
            seen += 1
        frame = frame.f_back
    return seen > 1


def _now(optimizer: Optimizer) -> float:
    """Seconds, after the device has done what it was given: a recorded step may wait, so that its cost is true."""
    device: Sequence[torch.device] = [p.device for group in optimizer.param_groups for p in group["params"][:1]][:1]
    if device and device[0].type == "cuda":
        torch.cuda.synchronize(device[0])
    return time.perf_counter()
