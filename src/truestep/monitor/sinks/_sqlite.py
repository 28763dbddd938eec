"""The run record on disk, written beside the training: buffers that a thread of its own empties into `run.db`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from truestep.core import Step
from truestep.monitor._balance import Balance
from truestep.monitor._run import Run
from truestep.monitor._shift import ShiftRows
from truestep.monitor.sinks._place import Place
from truestep.monitor.sinks._record import Record
from truestep.monitor.sinks._rows import Batch, ScalarRow

LEAST_BYTES: Final = 2**18
MOST_ROWS: Final = 1_000_000  # rows that may wait for a disk that hangs; what comes then is dropped


class Store:
    """Sink of a run: `run.db` in its directory, or a database in memory.

    What it is given waits in lists until a thread commits it, so that training pays for a list's append. Nothing is
    opened before the first row, `flush`, `open` or `resume`. The first error of the disk ends the recording for good:
    `failure` says so in one line, and no method raises.

    Args:
        run_dir: Directory of the run, made if missing; None keeps the record in memory.
        meta: Facts of the run, the rows of its table `run`.
        max_bytes: Size of the record at most, in bytes. Before it is reached every second recorded step is dropped.
        commit_every: Seconds between commits.

    Example:
        >>> store = Store(None, meta={"title": "digits"})
        >>> sgd = store.optimizer("SGD", "SGD", '[{"lr": 0.1}]')
        >>> store.scalar((sgd, 0, 1.7e9, 2.3, 64, False))  # optimizer, step, time, loss, samples, skipped
        >>> store.close()
        >>> store.reader().query("SELECT loss FROM step")
        [(2.3,)]
    """

    def __init__(
        self, run_dir: Path | None, *, meta: Mapping[str, str], max_bytes: float = 1e9, commit_every: float = 2.0
    ) -> None:
        if max_bytes < LEAST_BYTES:
            msg = f"`max_bytes` must be at least {LEAST_BYTES}, found {max_bytes}; a record of one step needs that"
            raise ValueError(msg)
        facts = {"id": uuid.uuid4().hex, "created": repr(time.time()), "status": "running"} | dict(meta)
        place = Place(run_dir)
        self.path = place.path
        self._batch = Batch()
        self._record = Record(place, self._batch, facts, max_bytes=max_bytes, commit_every=commit_every)
        self._handles: dict[str, int] = {}
        self._dropped = 0

    @property
    def failure(self) -> str | None:
        """What ended the recording, in one line; None while all is well."""
        return self._record.failure

    @property
    def seconds(self) -> float:
        """CPU seconds that the writing took."""
        return self._record.worker.seconds if self._record.worker else 0.0

    @property
    def period(self) -> int:
        """Recorded steps are kept at multiples of this; doubles when the record reaches its size."""
        return self._record.writer.period if self._record.writer else 1

    @property
    def bytes(self) -> int:
        """Bytes in use."""
        return self._record.writer.bytes if self._record.writer else 0

    # --- rows, from the training thread

    def scalar(self, row: ScalarRow) -> None:
        """The row of a step: optimizer, step, time, loss, samples, skipped; the last three numbers, tensors or None."""
        rows = self._batch.scalars
        rows.append(row)
        if len(rows) > self._record.patience:
            self._nudge(rows, 1)

    def step(self, step: Step) -> None:
        """A recorded step; blocks that were not registered get a row of their own."""
        steps = self._batch.steps
        steps.append(step)
        if len(steps) * len(step.names) > self._record.patience:
            self._nudge(steps, len(step.names))

    def balance(self, balance: Balance) -> None:
        """What a balancer did at a recorded step; before the step itself, so that no step is committed without it."""
        self._batch.balances.append(balance)

    def shift(self, shift: ShiftRows) -> None:
        """The covariate shift that was measured between two steps; replaces what was measured there before."""
        self._batch.shifts.append(shift)

    def schedule(self, optimizer_id: int, step: int, param_group: int, lr: Any) -> None:
        """The lr of a parameter group changed: a number or a one-element tensor."""
        self._batch.schedule.append((optimizer_id, step, param_group, lr))

    def event(self, kind: str, text: str, optimizer_id: int | None = None, step: int | None = None) -> None:
        """Something happened, now."""
        self._batch.events.append((time.time(), optimizer_id, step, kind, text))

    def meta(self, key: str, value: str) -> None:
        """A fact of the run; replaces what the key said before."""
        self._batch.meta.append((key, value))

    def optimizer(self, name: str, rule: str, settings: str) -> int:
        """Register an optimizer (again: its settings changed); returns the id that rows of this store name it by."""
        handle = self._handles.setdefault(name, len(self._handles) + 1)
        self._batch.optimizers.append((handle, name, rule, settings))
        return handle

    def block(
        self,
        name: str,
        shape: Sequence[int],
        numel: int,
        kind: str,
        symmetry: str | None = None,
        optimizer_id: int | None = None,
    ) -> None:
        """Register a block, or again what is known of it."""
        self._batch.blocks.append((name, str(list(shape)), numel, kind, symmetry, optimizer_id))

    # --- life

    def open(self) -> None:
        """Make the record, unless it is open, and start the writer; an existing record is renamed first."""
        self._record.open()

    def resume(self, run_id: str, next_step: Mapping[str, int]) -> None:
        """Go on in the record of run `run_id`; what it holds of each optimizer from `next_step` on is taken back.

        Where there is no such record, a warning says what was found and a fresh one begins, under that id.

        Raises:
            ValueError: If rows were written already.
        """
        self._record.resume(run_id, next_step)

    def flush(self) -> None:
        """Return when all handed over so far is committed, or recording has ended."""
        self._record.flush()

    def close(self, status: str = "finished") -> None:
        """Commit everything, say how the run ended and close the record; rows that come later are dropped."""
        if not self._record.over:
            self.meta("status", status)
            self.meta("ended", repr(time.time()))
            self._record.leave()

    def reader(self) -> Run:
        """The record so far, read only."""
        return self._record.reader()

    def _nudge(self, rows: list[Any], width: int) -> None:
        """What `scalar` and `step` do seldom: open the record, wake the writer, drop what nobody will write."""
        record = self._record
        record.open()
        if record.over or record.worker is None:
            self._batch.clear()
        elif len(rows) * width > MOST_ROWS:
            rows.pop()
            if not self._dropped:
                self.event("thinned", "the disk did not keep up: rows were dropped from here on")
            self._dropped += 1
        elif len(rows) * width > record.patience:
            record.worker.wake()
