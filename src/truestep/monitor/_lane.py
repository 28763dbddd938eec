"""One watched optimizer: its recorder, and what is noted on every one of its steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from truestep.core import Recorder, Step
from truestep.monitor._facts import settings
from truestep.monitor._ledger import Ledger, Row
from truestep.monitor.sinks import Store


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
        self.noted = -1  # the latest step that has a row
        self._ledger, self._store = ledger, store
        self._lrs: list[Any] = []
        self._lr: Any = None  # the first group's as it was last seen; a float that nobody changed is the same object

    def _end(self, index: int, skipped: Any) -> None:
        if skipped is not False or self._ledger.log_first is not None or index == self.recorder.last_recorded:
            self.noted = index
            self._ledger.end(self.number, index, time.time(), skipped)
        groups = self.optimizer.param_groups
        if groups[0].get("lr") is not self._lr or len(groups) > 1:  # a schedule makes a new number
            self._note_lrs(index, groups)

    def unnoted(self) -> Row | None:
        """The row of the last step, if it has none: where nobody logs, only recorded steps and the last have one."""
        last = self.recorder.index - 1
        return (self.number, last, time.time(), None, None, False) if last > self.noted else None

    def resume(self, index: int) -> None:
        """Go on with step number `index`."""
        self.recorder.index, self.noted = index, index - 1

    def _note_lrs(self, index: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """A row for each group whose lr changed."""
        self._lrs += [None] * (len(groups) - len(self._lrs))
        for i, group in enumerate(groups):
            lr = group.get("lr")
            if isinstance(lr, Tensor):  # filled in place: the object stays, so that its value is noted as it is now
                lr = lr.item() if lr.device.type == "cpu" else lr.detach().clone()
            if isinstance(lr, Tensor) or lr != self._lrs[i]:
                self._lrs[i] = lr
                if self._store is not None:
                    self._store.schedule(self.number, index, i, lr)
        first = groups[0].get("lr")
        self._lr = None if isinstance(first, Tensor) else first
