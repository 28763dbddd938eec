"""Optimizer hooks that turn a step into a `Step`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import nan
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from truestep.core._gram import Gram
from truestep.core._hooks import capturing, check_hooks, inside_step, not_compiled, now, skipped_by_compiler, warn
from truestep.core._kept import Buffers, UsedGradient
from truestep.core._measure import Block, list_blocks, measure
from truestep.core._products import Scratch
from truestep.core._settings import asked_of
from truestep.core._sharding import local
from truestep.core._step import Step

Names = Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
_TIMED = 65  # of 128 steps one is timed, a clock on each would cost a tenth of it; odd: no multiple of a period
_NO_ROWS = torch.zeros(0, 6, dtype=torch.float64)  # all that is left where every parameter was frozen in mid-run


def always(index: int) -> bool:
    """Record every step."""
    return index >= 0


def never(_: int) -> bool:
    """Record no step: on a rank that only counts."""
    return False


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
        on_error: Takes an exception of ours instead of the training run; by default the recorder warns and closes.

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
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        check_hooks(optimizer)
        self.name = name or type(optimizer).__name__
        self.index = 0
        self.last_recorded = -1  # number of the latest recorded step
        self.seconds = 0.0  # spent on recorded steps, in all
        self._samples: deque[float] = deque(maxlen=5)  # seconds spent on steps that were not recorded
        self._names, self._units = params, frozenset(units)
        self._on_step, self._on_end, self._due = on_step, on_end, due
        self._on_error, self._errors = on_error or self._give_up, list[Exception]()
        self._optimizer = optimizer
        self._weights, self._gradient = Buffers(), UsedGradient(optimizer)
        self._scratch: dict[torch.device, Scratch] = {}
        self._depth, self._nested, self._in_hook = 0, False, False
        self._armed: RemovableHandle | None = None  # the hook before the step, there while the next step is due
        self._pending: tuple[list[Block], list[Tensor | None]] | None = None
        self._blocks = list_blocks(params, optimizer, self._units)  # the latest, should asking again ever fail
        if not self._blocks:
            msg = "`optimizer` holds none of the model's parameters; pass the optimizer that steps this model"
            raise ValueError(msg)
        # torch.compile must neither trace nor specialise on our counters: graph break at the hooks, eager inside
        self._measured_before = not_compiled(self._before)
        self._measured_after = not_compiled(self._after)
        self._handle = self._hooked()

    @property
    def seconds_unrecorded(self) -> float:
        """Seconds that a step costs which is not recorded: the median of the latest samples."""
        from statistics import median  # takes 5 ms to import, with decimal and fractions

        return median(self._samples) if self._samples else 0.0

    def close(self) -> None:
        """Take the hooks off and let the copies go; the optimizer goes on as if there had been none."""
        self._due, self._on_end = never, None
        if not self._in_hook:  # torch is going through its hooks: taking one out would break the step
            self._disarm()
            self._handle.remove()
        self._pending = None
        self._weights, self._gradient, self._scratch = Buffers(), UsedGradient(self._optimizer), {}

    def _hooked(self) -> RemovableHandle:
        """Register the hooks; on a step that is not recorded only `post` runs, and calls as little as can be.

        In a real loop each Python call of ours costs about a microsecond, with the caches full of the model.
        """

        def post(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            if self._armed:
                return self._finish(optimizer)
            index = self.index
            start = time.perf_counter() if index & 127 == _TIMED else 0.0
            self.index = index + 1
            if self._on_end is not None:
                try:
                    self._on_end(index, getattr(optimizer, "found_inf", False))
                except Exception as error:  # noqa: BLE001
                    self._report(error)
            if self._due(index + 1):
                self._arm()
            if start:
                self._samples.append(time.perf_counter() - start)
            return None

        self._arm()
        return self._optimizer.register_step_post_hook(skipped_by_compiler(post))

    def _arm(self) -> None:
        """Put the hook before the next step, which is to be recorded."""

        def pre(optimizer: Optimizer, args: Any, kwargs: Any) -> Arguments | None:
            return self._begin(optimizer, args, kwargs)

        if self._armed is None:
            self._armed = self._optimizer.register_step_pre_hook(skipped_by_compiler(pre))

    def _disarm(self) -> None:
        """Take the hook before the step away until a step is due again."""
        if self._armed:
            self._armed.remove()
            self._armed = None

    def _begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Arguments | None:
        """Before a step that is recorded, that lies inside another of the same optimizer, or that is the first."""
        if self._depth and inside_step(optimizer):
            self._depth += 1  # a subclass's step calls its base's, which carries the hooks too
            self._nested = True
            return None
        self._depth, self._pending = 1, None
        if self._due(self.index) and not capturing(optimizer):
            return self._guarded(self._measured_before, args, kwargs)
        return None

    def _finish(self, optimizer: Optimizer) -> None:
        """After a step that `_begin` saw."""
        self._depth -= 1
        if self._depth > 0:
            return
        self._depth, index, self._in_hook = 0, self.index, True
        try:
            skipped = getattr(optimizer, "found_inf", False)
            if self._pending is not None:
                skipped = self._guarded(self._measured_after) or False
            self.index = index + 1
            if self._on_end is not None:
                self._guarded(self._on_end, index, skipped)
            if self._errors:
                self._report(*self._errors)
        finally:  # also where Ctrl-C fell into it
            self.index, self._in_hook = index + 1, False
        if not (self._nested or self._due(self.index)):  # nested steps would run `post` twice, unseen without `_begin`
            self._disarm()

    def _report(self, error: Exception, *_: Exception) -> None:
        """Hand over the first of the exceptions of a step."""
        self._errors, self._in_hook = [], True
        try:
            self._on_error(error)
        finally:
            self._in_hook = False

    def _guarded(self, function: Callable[..., Any], *args: Any) -> Any:
        """The function's answer, or None with the exception kept for `on_error`: training goes on."""
        try:
            return function(*args)
        except Exception as error:  # noqa: BLE001
            self._errors.append(error)
            return None

    def _give_up(self, error: Exception) -> None:
        self.close()
        message = f"truestep stopped recording {self.name} after step {self.index - 1}, training goes on: {error!r}"
        warn(message)

    @torch.no_grad()
    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        start = now(self._optimizer)
        found = self._guarded(list_blocks, self._names, self._optimizer, self._units)
        blocks = self._blocks = self._blocks if found is None else found
        names, params = [block.name for block in blocks], [block.param for block in blocks]
        self._pending = blocks, [None] * len(blocks)  # nan rows, and no rank left waiting, if anything below fails
        self._gradient.begin(names, params)
        self._pending = blocks, self._weights.fill(names, [local(p) for p in params])
        changed = self._with_closure(args, kwargs)
        if changed is None:
            self._gradient.ready()
        self.seconds += now(self._optimizer) - start
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
        ready, stale = (not_compiled(torch.no_grad()(note)) for note in (self._gradient.ready, self._gradient.stale))

        def evaluate() -> Any:
            nonlocal evaluations
            evaluations += 1
            if evaluations == 2:
                self._guarded(stale)
            loss = closure()
            if evaluations == 1:
                self._guarded(ready)
            return loss

        return evaluate

    @torch.no_grad()
    def _after(self) -> bool:
        if self._pending is None:
            return False
        start = now(self._optimizer)
        (blocks, before), self._pending = self._pending, None
        used = self._gradient.after()
        found_inf: Tensor | None = getattr(self._optimizer, "found_inf", None)
        skipped = found_inf is not None and bool(found_inf)
        scale = getattr(self._optimizer, "grad_scale", None) if used.raw or skipped else None
        names, columns, errors = measure(blocks, before, used, scale, self._scratch)
        self._errors += errors
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
            took=Gram.from_columns(torch.cat([_NO_ROWS, *columns])),
        )
        self.seconds += now(self._optimizer) - start
        self.last_recorded = self.index
        self._on_step(step)
        return skipped
