"""The directory of a run: one process records in it, and no record in it is ever overwritten."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from truestep.monitor._schema import FILE
from truestep.monitor.sinks._file import connect, create, reopen

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be renamed: `set_aside` fails by itself
    fcntl = None

SIDE_FILES: Final = ("-wal", "-shm", "-journal")


def set_aside(path: Path) -> Path | None:
    """Rename the record that lies at `path`, with all that was committed to it; None if there is nothing to keep."""
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return None
    created = _settle(path)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(path.stat().st_mtime if created is None else created))
    target, count = path.with_name(f"{path.stem}-{stamp}{path.suffix}"), 1
    while target.exists():
        count += 1
        target = path.with_name(f"{path.stem}-{stamp}-{count}{path.suffix}")
    for suffix in (*SIDE_FILES, ""):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{target}{suffix}")
    return target


def _settle(path: Path) -> float | None:
    """Move what a killed run left in its log into the file; return when the run was created, if that can be read."""
    try:
        connection = connect(path)
    except sqlite3.Error:
        return None
    try:
        connection.execute("PRAGMA busy_timeout = 1000")
        (created,) = connection.execute("SELECT value FROM run WHERE key = 'created'").fetchone()
        connection.execute("PRAGMA journal_mode = DELETE")
        return float(created)
    except (sqlite3.Error, TypeError, ValueError):
        return None  # damaged, foreign or being read: its log is renamed along with it
    finally:
        connection.close()


def claim(directory: Path) -> int | None:
    """Lock the directory for one recording process; returns the descriptor that holds the lock.

    SQLite's own files carry the names of the database: if a second run renamed a record that is still being written,
    the first would delete the log of the second as it ends.
    """
    if fcntl is None:
        return None
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        msg = f"another process is recording in {directory}; give every run its own `run_dir`"
        raise OSError(msg) from None
    except OSError:  # a disk without locks
        os.close(descriptor)
        return None
    return descriptor


class Place:
    """Where a record is written: a directory, or the memory.

    Args:
        directory: Made if missing; None for a record in memory.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = None if directory is None else directory.resolve()
        self.path = None if self.directory is None else self.directory / FILE
        self._claim: int | None = None

    def __str__(self) -> str:
        return "in memory" if self.path is None else str(self.path)

    def fresh(self, facts: Mapping[str, str]) -> tuple[sqlite3.Connection, Path | None]:
        """A new record, and the name that an older one got."""
        aside = None
        if self.path is not None:
            self._enter(self.path.parent)
            aside = set_aside(self.path)
        return create(self.path, facts), aside

    def again(self, run_id: str, facts: Mapping[str, str]) -> tuple[sqlite3.Connection, str | None]:
        """The record of run `run_id`; or a fresh one, and why."""
        if self.path is None:
            return create(None, facts), None
        self._enter(self.path.parent)
        try:
            return reopen(self.path, run_id), None
        except ValueError as error:
            connection, aside = self.fresh(facts)
            renamed = f", the old one was renamed {aside.name}" if aside else ""
            return connection, f"{error}; the run goes on in a fresh record{renamed}"

    def check(self) -> None:
        """Raise OSError if the record is gone: SQLite writes on into a file that was deleted."""
        if self.path is not None:
            self.path.stat()

    def leave(self) -> None:
        """Let others record here."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def _enter(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if self._claim is None:
            self._claim = claim(directory)
