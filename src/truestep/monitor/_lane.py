"""One watched optimizer: its recorder, and what is noted on every one of its steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from truestep.core import Recorder, Step
from truestep.monitor._facts import settings
from truestep.monitor._ledger import Ledger
from truestep.monitor.sinks import Store

_SAMPLED = 127  # the every-step path times itself once in 128 steps: a clock on each would cost a tenth of it


class Lane:
    """The every-step path of one optimizer: time, loss and lr of each step into the store, no host sync.

    Args:
        name: Name of the optimizer in the run.
        optimizer: The optimizer.
        parameters: Named parameters of the model, asked again when the optimizer's set changes.
        ledger: Knows which loss belongs to which step.
        store: Takes the rows; None on a rank that does not write.
        due: Which steps to record.
        on_step: Takes the recorded steps.
        on_error: Takes an exception of ours.
        units: Blocks to be recorded unit by unit.
    """

    def __init__(
        self,
        name: str,
        optimizer: Optimizer,
        parameters: Callable[[], Mapping[str, Tensor]],
        *,
        ledger: Ledger,
        store: Store | None,
        due: Callable[[int], bool],
        on_step: Callable[[Step], None],
        on_error: Callable[[Exception], None],
        units: Iterable[str],
    ) -> None:
        self.optimizer = optimizer
        self.recorder = Recorder(
            parameters, optimizer, on_step, due=due, name=name, units=units, on_end=self._end, on_error=on_error
        )
        self.number = store.optimizer(name, type(optimizer).__name__, settings(optimizer)) if store else 0
        self.every_step = 0.0  # seconds that the every-step path costs a step, latest sample
        self._ledger, self._store = ledger, store
        self._lrs: list[Any] = []

    def _end(self, index: int, skipped: Any) -> None:
        if index & _SAMPLED == _SAMPLED:
            start = time.perf_counter()
            self._note(index, skipped)
            self.every_step = time.perf_counter() - start
        else:
            self._note(index, skipped)

    def _note(self, index: int, skipped: Any) -> None:
        self._ledger.end(self.number, index, time.time(), skipped)
        groups, lrs = self.optimizer.param_groups, self._lrs
        if len(groups) != len(lrs):
            lrs += [None] * (len(groups) - len(lrs))
        for i, group in enumerate(groups):
            if group.get("lr") is not lrs[i]:  # a schedule makes a new number, a constant stays the same object
                self._schedule(index, i, group["lr"])

    def _schedule(self, index: int, group: int, lr: Any) -> None:
        if isinstance(lr, Tensor):  # filled in place: the object stays, so that its value is noted as it is now
            lr = lr.detach().clone() if lr.is_cuda else lr.item()
        if isinstance(lr, Tensor) or lr != self._lrs[group]:
            self._lrs[group] = lr
            if self._store is not None:
                self._store.schedule(self.number, index, group, lr)
