"""The results of trials in one SQLite file, by the hash of their content; the driver alone writes."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import finalize

from truestep.compare.sweep._worker import Outcome

APPLICATION_ID: Final = 0x74735357  # "tsSW"
VERSION: Final = 1
LOCK_SECONDS: Final = 60.0
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS trial (
    hash TEXT PRIMARY KEY,
    label TEXT NOT NULL,
    content TEXT NOT NULL,       -- JSON: what was computed
    result TEXT,                 -- JSON: what it gave; NULL where it failed
    error TEXT,                  -- the traceback of a failed one
    seconds REAL NOT NULL,       -- of its last attempt
    attempts INTEGER NOT NULL,   -- how often it was started; more than 1 where it failed or its worker died
    finished REAL NOT NULL       -- Unix time
)
"""


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """One trial as the store has it: `result` is None where it failed, and `error` then says why."""

    hash: str
    label: str
    content: str
    result: dict[str, Any] | None
    error: str | None
    seconds: float | int
    attempts: int


class Store:
    """The table of trials.

    Args:
        path: The file, made if missing; None for a table in memory, which ends with this object.

    Raises:
        ValueError: If the file is something else.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path).resolve()
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise ValueError(f"`store` must be a file, found the folder {self.path}: name one in it")
        self._connection = _connect(":memory:" if self.path is None else self.path)
        self.close = finalize(self, self._connection.close)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise ValueError(f"`store` must be a sweep's file, found {self.path}: {error}") from error
        except ValueError:
            self.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        (application,), (version,) = (run(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
        (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise ValueError(f"`store` must be a sweep's file, found another database: {self.path}")
        if version > VERSION:
            raise ValueError(
                f"`store` was written by a newer truestep: {self.path}; update truestep or give a new file"
            )
        with suppress(sqlite3.OperationalError):  # refused on network disks: the rollback journal stays
            run("PRAGMA journal_mode = WAL").fetchall()
        run("PRAGMA synchronous = NORMAL")  # a killed driver loses nothing, a power cut the last trials
        if not tables:
            for statement in (SCHEMA, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION}"):
                run(statement)

    @contextmanager
    def driving(self) -> Generator[None]:
        """Keep other drivers away meanwhile; the operating system ends it with the process, however that dies.

        Raises:
            ValueError: If another sweep is driving this store.
        """
        if self.path is None:
            yield
            return
        lock = _connect(f"{self.path}-driver", patience=0.0)  # SQLite's own lock, as the store's must stay readable
        try:
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                advice = "wait until it ends, or give a file of its own"
                raise ValueError(f"`store` is being written by another sweep: {self.path}; {advice}") from None
            yield
        finally:
            lock.close()

    def results(self, hashes: Iterable[str]) -> dict[str, str]:
        """The JSON of those of the trials that have a result."""
        query = "SELECT result FROM trial WHERE hash = ? AND result IS NOT NULL"
        found = {name: self._connection.execute(query, (name,)).fetchone() for name in hashes}
        return {name: row[0] for name, row in found.items() if row}

    def save(self, name: str, label: str, text: str, outcome: Outcome, attempts: int) -> None:
        """Put what a trial gave, in place of an earlier failure, and commit."""
        row = (name, label, text, outcome.result, outcome.error, outcome.seconds, attempts, time.time())
        self._connection.execute(
            "INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET label = excluded.label,"
            " result = excluded.result, error = excluded.error, seconds = excluded.seconds,"
            " attempts = attempts + excluded.attempts, finished = excluded.finished",
            row,
        )

    def all(self) -> list[StoredTrial]:
        """Every trial, in the order in which they first ended."""
        query = "SELECT hash, label, content, result, error, seconds, attempts FROM trial ORDER BY rowid"
        return [
            StoredTrial(name, label, text, None if result is None else json.loads(result), *rest)
            for name, label, text, result, *rest in self._connection.execute(query)
        ]


def _connect(path: str | Path, patience: float = LOCK_SECONDS) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
