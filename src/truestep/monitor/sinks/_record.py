"""A run record that is open: made or resumed, emptied into by a thread, left alone by forks and failures."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from truestep.core import warn
from truestep.monitor._run import Run, load_run
from truestep.monitor.sinks import _process
from truestep.monitor.sinks._file import LOCK_SECONDS, is_locked, one_line, settle
from truestep.monitor.sinks._place import Place
from truestep.monitor.sinks._rows import Batch
from truestep.monitor.sinks._worker import Worker
from truestep.monitor.sinks._writer import Writer

WAKE_ROWS: Final = 20_000  # rows that wake the writer before its time
FLUSH_SECONDS: Final = 30.0  # training waits no longer for a disk


class Record:
    """The life of a record. No method raises because of a disk: `failure` says what happened, in one line.

    Args:
        place: Where it is written.
        batch: What waits to be written; this class takes from it.
        facts: The rows of its table `run`.
        max_bytes: Size at most, in bytes.
        commit_every: Seconds between commits.
    """

    def __init__(
        self, place: Place, batch: Batch, facts: dict[str, str], *, max_bytes: float, commit_every: float
    ) -> None:
        self.place, self.directory = place, place.directory
        self.failure: str | None = None
        self.over = False
        self.writer: Writer | None = None
        self.worker: Worker | None = None
        self.patience = -1  # rows that may wait; below 0 none may: the record is not open yet, or no more
        self._batch, self._facts = batch, facts
        self._max_bytes, self._commit_every = max_bytes, commit_every
        self._held = False
        self._locked = ""  # the error of the last commit that found the record locked by another program
        self._told = False  # that the rows are late
        self._lock = threading.RLock()  # held while the database is used
        _process.hook()

    def open(self) -> None:
        """Make the record, unless it is open, and start the writer; an existing record is renamed first."""
        if self.over or self.worker is not None:
            return
        if self.writer is None:
            self._guarded(self._make)
        if self.writer is not None:
            self.patience = WAKE_ROWS
            self.worker = Worker(self._work, self._commit_every)

    def resume(self, run_id: str, next_step: Mapping[str, int]) -> None:
        """Reopen the record of run `run_id` and take back what it holds from `next_step` on; or warn and begin anew."""
        if self.writer is not None:
            msg = "`resume` must come before the first step is recorded; load the checkpoint before training"
            raise ValueError(msg)
        self._facts["id"] = run_id
        found: list[str | None] = []
        self._guarded(lambda: found.append(self._remake(run_id, next_step)))
        if found and found[0]:
            warn(found[0], stacklevel=5)

    def flush(self) -> None:
        """Return when all handed over so far is committed, or recording has ended; or warn that it takes long."""
        self.open()
        if self.worker is None or self.over:
            return
        served = self.worker.wait(FLUSH_SECONDS)
        if served and not self._locked:
            self._told = False
        elif not self._told:
            self._told = True
            why = self._locked or f"no answer within {FLUSH_SECONDS:g} s"
            warn(f"run record {self.place} is late ({why}); training goes on, rows wait in memory", stacklevel=5)

    def leave(self) -> None:
        """Commit everything and close the record without saying how the run ended."""
        self.open()
        if self.worker is not None and not self.worker.stop(LOCK_SECONDS + FLUSH_SECONDS):
            self._desert()
            return
        if self._locked and not self.over:
            self.failure = f"run record {self.place} stayed locked ({self._locked}); its last rows are lost"
        if self.writer is not None and self.place.path is not None:
            connection = self.writer.connection
            self._guarded(lambda: settle(connection))
        self._end()

    def reader(self) -> Run:
        """The record so far, read only."""
        self.flush()
        if self.place.path is not None:
            return load_run(self.place.path)
        if self.writer is None:
            msg = self.failure or "the record in memory stayed in the parent process; read it there"
            raise ValueError(msg)
        return Run("the record in memory", self._read, lambda: None)

    def _make(self) -> None:
        _process.take_over(self.directory)
        connection, _ = self.place.fresh(self._facts)
        self._begin(connection)

    def _remake(self, run_id: str, next_step: Mapping[str, int]) -> str | None:
        """Reopen the record and take back its end; or say why it is a fresh one."""
        _process.take_over(self.directory)
        connection, why = self.place.again(run_id, self._facts)
        writer = self._begin(connection)
        if why is None:
            writer.rewind(next_step, self._facts)
        return why

    def _begin(self, connection: sqlite3.Connection) -> Writer:
        self.writer = Writer(connection, self._max_bytes)
        if self.place.path is None:  # a record in memory is read after `close`, too
            weakref.finalize(self, connection.close).atexit = False
        _process.enter(self)
        return self.writer

    def _work(self) -> bool:
        self._guarded(self._commit)
        if self.over:  # deserted, and yet the disk answered
            self._end()
        return not self.over

    def _commit(self) -> None:
        batch = self._batch.take()
        if not batch or self.writer is None:
            return
        try:
            self.writer.write(batch)
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise
            self._locked = one_line(error)
            self._batch.put_back(batch)  # for the next time
            return
        self._locked = ""
        self.writer.fit()
        self.place.check()

    def _guarded(self, action: Callable[[], object]) -> None:
        """Do it with the database to ourselves; an error ends the recording, not the training."""
        try:
            with self._lock:
                if not self.over:
                    action()
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self.failure = f"run record {self.place} cannot be written ({one_line(error)}); training goes on unrecorded"
            self._end()

    def _desert(self) -> None:
        """The disk hangs, and the writer with it: end the record without waiting for them."""
        self.failure = f"run record {self.place} got no answer from its disk; what was not yet written is lost"
        self.over, self.patience = True, -1
        self._batch.clear()
        _process.leave(self)

    def _end(self) -> None:
        """Close the record. One in memory can still be read."""
        with self._lock:
            self.over, self.patience = True, -1
            self._batch.clear()
            _process.leave(self)
            if self.writer is not None and self.place.path is not None:
                with suppress(sqlite3.Error):
                    self.writer.connection.close()
            self.place.leave()

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Rows of the record in memory, read between two commits."""
        assert self.writer is not None
        connection = self.writer.connection
        with self._lock:
            connection.execute("PRAGMA query_only = ON")
            try:
                return connection.execute(sql, parameters).fetchall()
            finally:
                connection.execute("PRAGMA query_only = OFF")

    # --- forks

    def hold(self) -> None:
        """Wait for the writer to leave the database, for as long as a process forks."""
        self._held = self._lock.acquire(timeout=5.0)

    def release(self) -> None:
        """Let the writer go on."""
        if self._held:
            self._held = False
            self._lock.release()

    def abandon(self) -> None:
        """In a forked child: the record belongs to the parent, whose open files must not even be closed here."""
        if self.writer is not None:
            _process.keep_forever(self.writer.connection)
        self._lock = threading.RLock()
        self.over, self.patience = True, -1
        self.writer = self.worker = None
        self._batch.clear()
        self.place.leave()
