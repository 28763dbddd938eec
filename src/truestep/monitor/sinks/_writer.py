"""Batches of rows put into an open record: all the SQL of recording, and nothing of threads."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core import Step
from truestep.monitor._balance import Balance
from truestep.monitor._schema import ASKED, OF_BALANCE, OF_SHIFT, OF_TASK, TOOK
from truestep.monitor._shift import ShiftRows
from truestep.monitor.sinks._file import is_locked, transaction, used_bytes
from truestep.monitor.sinks._rows import Batch, ScalarRow, flat_blocks, flat_numbers, flat_shift, flat_tasks, insert
from truestep.monitor.sinks._thin import MEASURED, RECORDED, thin_blocks, thin_measured, thin_scalars

# The pages of the rows that stay stand beside the old ones while a table is thinned: thinned at two thirds of the
# limit, a file never outgrows it.
FULL: Final = 2 / 3
LONGEST_PERIOD: Final = 2**40
MEAGRE: Final = 1 / 8  # of the limit: thinning `block_step` that frees less means that `step` fills the file
MEASURED_ROW: Final = 64  # bytes of a row of `layer_shift`, about

_BLOCK: Final = """
INSERT INTO block (name, shape, numel, kind, symmetry, optimizer) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET shape = excluded.shape, numel = excluded.numel, kind = excluded.kind,
    symmetry = excluded.symmetry, optimizer = excluded.optimizer"""
_OPTIMIZER: Final = """
INSERT INTO optimizer (name, rule, settings) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET rule = excluded.rule, settings = excluded.settings"""
_TASK: Final = "INSERT INTO task (name) VALUES (?) ON CONFLICT (name) DO NOTHING"
_LAYER: Final = "INSERT INTO layer (name) VALUES (?) ON CONFLICT (name) DO NOTHING"
_COUNTED: Final = ("layer_shift", "shift_step")
_SET: Final = "INSERT OR REPLACE INTO run VALUES (?, ?)"


class Writer:
    """Writes batches in one transaction each and keeps the record within its size.

    Args:
        connection: An open record.
        max_bytes: Size at most, in bytes.
    """

    def __init__(self, connection: sqlite3.Connection, max_bytes: float) -> None:
        self.connection = connection
        meta = dict(connection.execute("SELECT key, value FROM run WHERE key LIKE 'min_%'").fetchall())
        self.period = int(meta.get("min_period", 1))
        self.scalar_period = int(meta.get("min_scalar_period", 1))
        self.bytes = used_bytes(connection)
        self._max_bytes = max_bytes
        self._optimizers: dict[str, int] = dict(connection.execute("SELECT name, id FROM optimizer").fetchall())
        self._blocks: dict[str, int] = dict(connection.execute("SELECT name, id FROM block").fetchall())
        self._tasks: dict[str, int] = dict(connection.execute("SELECT name, id FROM task").fetchall())
        self._layers: dict[str, int] = dict(connection.execute("SELECT name, id FROM layer").fetchall())
        self._keys: dict[int | None, int | None] = {None: None}  # a resumed record has its own optimizer ids
        self._seen: dict[int, tuple[tuple[str, ...], Float64[Tensor, " blocks"]]] = {}
        self._lrs: dict[tuple[int | None, int], float | None] = {}  # last written, by optimizer and param_group

    def write(self, batch: Batch) -> None:
        """Commit the batch; after an error nothing of it is there, and it can be written again."""
        try:
            self._commit(batch)
        except BaseException:
            self._forget()
            raise

    def fit(self) -> None:
        """Thin the record as long as it is too large; where another program holds it, after the next batch."""
        try:
            self.bytes = used_bytes(self.connection)
            while self.bytes >= FULL * self._max_bytes and self.period < LONGEST_PERIOD:
                self._thin()
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise

    def _commit(self, batch: Batch) -> None:
        with transaction(self.connection):
            self.connection.executemany(_SET, batch.meta)
            for handle, *row in batch.optimizers:
                self._keys[handle] = self._register("optimizer", _OPTIMIZER, self._optimizers, row)
            for *row, handle in batch.blocks:
                self._register("block", _BLOCK, self._blocks, [*row, self._keys[handle]])
            for step in batch.steps:
                self._write_step(step)
            for balance in batch.balances:
                self._write_balance(balance)
            for shift in batch.shifts:
                self._write_shift(shift)
            self._write_scalars(batch.scalars)
            self._write_schedule(batch.schedule)
            for moment, handle, index, kind, text in batch.events:
                self._event(kind, text, moment, self._keys[handle], index)

    def _forget(self) -> None:
        """Take over what the record says: ids given in a transaction that was rolled back are nobody's."""
        self._seen.clear()
        self._lrs.clear()
        with suppress(sqlite3.Error):  # a disk that fails here fails again at the next batch
            self._optimizers = dict(self.connection.execute("SELECT name, id FROM optimizer").fetchall())
            self._blocks = dict(self.connection.execute("SELECT name, id FROM block").fetchall())
            self._tasks = dict(self.connection.execute("SELECT name, id FROM task").fetchall())
            self._layers = dict(self.connection.execute("SELECT name, id FROM layer").fetchall())

    def rewind(self, next_step: Mapping[str, int], meta: Mapping[str, str]) -> None:
        """Take back what an interrupted run recorded from its checkpoint's step on; the run keeps its id and age."""
        with transaction(self.connection):
            self.connection.executemany(_SET, [row for row in meta.items() if row[0] != "created"])
            self.connection.execute(_SET, ("status", "running"))
            self.connection.execute("DELETE FROM run WHERE key = 'ended'")
            for name, index in next_step.items():
                if name in self._optimizers:
                    self._take_back(name, index)
        self.bytes = used_bytes(self.connection)

    def _take_back(self, name: str, index: int) -> None:
        key = self._optimizers[name]
        for table in ("step", *RECORDED, "schedule", "event"):
            self.connection.execute(f"DELETE FROM {table} WHERE optimizer = ? AND step >= ?", (key, index))
        for table in MEASURED:  # before step `index`: of the weights in the checkpoint, which nobody measures again
            self.connection.execute(f"DELETE FROM {table} WHERE optimizer = ? AND step > ?", (key, index))
        self._event("resume", f"{name} resumed at step {index}", time.time(), key, index)

    def _register(self, table: str, statement: str, known: dict[str, int], row: list[Any]) -> int:
        self.connection.execute(statement, row)
        (known[row[0]],) = self.connection.execute(f"SELECT id FROM {table} WHERE name = ?", row[:1]).fetchone()
        return known[row[0]]

    def _event(self, kind: str, text: str, moment: float, optimizer: int | None, index: int | None) -> None:
        self.connection.execute(
            "INSERT INTO event (time, optimizer, step, kind, text) VALUES (?, ?, ?, ?, ?)",
            (moment, optimizer, index, kind, text),
        )

    def _write_step(self, step: Step) -> None:
        """A recorded step stands alone: it brings its row of `step` along unless that is there already."""
        if step.index % self.period:
            return
        key = self._key(step.optimizer)
        row = (key, step.index, step.time, step.loss, step.samples, step.skipped)
        self.connection.execute("INSERT OR IGNORE INTO step VALUES (?, ?, ?, ?, ?, ?)", flat_numbers([row]))
        width = 3 + len(ASKED) + len(TOOK)
        blocks = self._block_ids(key, step.names)
        insert(self.connection, "INSERT OR REPLACE INTO block_step", width, flat_blocks(step, key, blocks))

    def _write_balance(self, balance: Balance) -> None:
        """What a balancer did at a recorded step, and a row for each of its tasks."""
        if balance.index % self.period:
            return
        key = self._key(balance.optimizer)
        for name in balance.weights:
            if name not in self._tasks:
                self._register("task", _TASK, self._tasks, [name])
        row = [key, balance.index, *(getattr(balance, name) for name in OF_BALANCE)]
        insert(self.connection, "INSERT OR REPLACE INTO balance_step", len(row), row)
        rows = flat_tasks(balance, key, self._tasks)
        insert(self.connection, "INSERT OR REPLACE INTO task_step", 3 + len(OF_TASK), rows)

    def _write_shift(self, shift: ShiftRows) -> None:
        """What was measured before a step, in the place of what was measured there earlier."""
        place = (self._key(shift.optimizer), shift.index)
        for row in shift.rows:
            if row["layer"] not in self._layers:
                self._register("layer", _LAYER, self._layers, [row["layer"]])
        for table in MEASURED:
            self.connection.execute(f"DELETE FROM {table} WHERE optimizer = ? AND step = ?", place)
        measured = (*place, int(shift.train_mode), shift.batches)
        self.connection.execute("INSERT INTO shift_step VALUES (?, ?, ?, ?)", measured)
        rows = flat_shift(shift, place[0], self._layers)
        insert(self.connection, "INSERT INTO layer_shift", 5 + len(OF_SHIFT), rows)

    def _key(self, optimizer: str) -> int:
        """The optimizer's id, also of one that nobody registered."""
        if optimizer not in self._optimizers:
            self._register("optimizer", _OPTIMIZER, self._optimizers, [optimizer, "", None])
        return self._optimizers[optimizer]

    def _block_ids(self, key: int, names: tuple[str, ...]) -> Float64[Tensor, " blocks"]:
        seen, ids = self._seen.get(key, (None, None))
        if ids is None or seen != names:  # a new tuple at every step, of the same strings: compared by their addresses
            for name in names:
                if name not in self._blocks:
                    self._register("block", _BLOCK, self._blocks, [name, None, None, None, None, key])
            ids = torch.tensor([self._blocks[name] for name in names], dtype=torch.float64, device="cpu")
            self._seen[key] = (names, ids)
        return ids

    def _write_scalars(self, rows: list[ScalarRow]) -> None:
        if self.scalar_period > 1:
            rows = [row for row in rows if row[1] % self.scalar_period == 0]
        flat = flat_numbers(rows)
        flat[::6] = [self._keys[handle] for handle in flat[::6]]
        flat[5::6] = [1 if skipped else 0 for skipped in flat[5::6]]
        insert(self.connection, "INSERT OR REPLACE INTO step", 6, flat)

    def _write_schedule(self, rows: list[tuple[int, int, int, Any]]) -> None:
        """Rows whose lr differs from the last one written: a training loop cannot compare a tensor without waiting."""
        flat, kept = flat_numbers(rows), list[Any]()
        for handle, index, group, lr in zip(*(flat[i::4] for i in range(4)), strict=True):
            place, value = (self._keys[handle], group), None if lr != lr else lr  # nan is stored as NULL  # noqa: PLR0124
            if place not in self._lrs or self._lrs[place] != value:
                self._lrs[place] = value
                kept += (self._keys[handle], index, group, value)
        insert(self.connection, "INSERT OR REPLACE INTO schedule", 4, kept)

    def _thin(self) -> None:
        """Of what takes much room, keep the half: what was measured on demand first, since nothing else frees that."""
        rows, steps = (self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in _COUNTED)
        if steps > 1 and MEASURED_ROW * rows >= MEAGRE * self._max_bytes:
            with transaction(self.connection):
                thin_measured(self.connection)
                text = "the record reached its size: of the measurements of covariate shift every second was kept"
                self._event("thinned", text, time.time(), None, None)
        else:
            self._thin_steps()
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.bytes = used_bytes(self.connection)

    def _thin_steps(self) -> None:
        """Double the period of the recorded steps; if that frees little, of the rows of every step too."""
        period, scalar_period = 2 * self.period, self.scalar_period
        text = f"the record reached its size: of the recorded steps those divisible by {period} were kept"
        with transaction(self.connection):
            thin_blocks(self.connection, period)
            if self.bytes - used_bytes(self.connection) < MEAGRE * self._max_bytes:
                scalar_period = 2 * scalar_period
                thin_scalars(self.connection, scalar_period)
                text += f", of loss and samples of every step those divisible by {scalar_period}"
            self.connection.execute(_SET, ("min_period", str(period)))
            self.connection.execute(_SET, ("min_scalar_period", str(scalar_period)))
            self._event("thinned", text, time.time(), None, None)
        self.period, self.scalar_period = period, scalar_period
