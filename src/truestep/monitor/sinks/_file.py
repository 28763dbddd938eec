"""A run record as a file: made, reopened, measured."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from truestep.monitor._reading import identify, naming_damage
from truestep.monitor._schema import ADDED, APPLICATION_ID, SCHEMA, VERSION

LOCK_SECONDS: Final = 60.0  # with a rollback journal a reader keeps the writer waiting


def connect(path: Path | None) -> sqlite3.Connection:
    """Connection for writing, in autocommit; a database in memory where `path` is None."""
    name = ":memory:" if path is None else path
    return sqlite3.connect(name, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """All statements inside, or none of them."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


def set_journal(connection: sqlite3.Connection) -> None:
    """Choose write-ahead logging: readers and the writer do not wait for each other, commits do not wait for the disk.

    Where it is refused (network disks have no shared memory) the rollback journal stays, which is SQLite's default.
    """
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 16777216")


def settle(connection: sqlite3.Connection) -> None:
    """Move the log into the file, and do without one where nobody is reading: a finished record is one plain file."""
    connection.execute("PRAGMA busy_timeout = 0")
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()


def create(path: Path | None, meta: Mapping[str, str]) -> sqlite3.Connection:
    """A fresh record with its facts. The file is empty or complete, never half made."""
    connection = connect(path)
    try:
        with transaction(connection):
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.executemany("INSERT INTO run VALUES (?, ?)", meta.items())
        set_journal(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def reopen(path: Path, run_id: str) -> sqlite3.Connection:
    """The record of run `run_id`, ready for writing; ValueError says why it cannot be continued."""
    if not path.is_file():
        msg = f"{path} does not exist"
        raise ValueError(msg)
    connection = connect(path)
    try:
        with naming_damage(path):
            identify(connection, path)
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            found = connection.execute("SELECT value FROM run WHERE key = 'id'").fetchone()
        if verdict != "ok":
            msg = f"{path} is damaged ({' '.join(verdict.split())})"
            raise ValueError(msg)
        if found != (run_id,):
            msg = f"{path} holds run {found[0] if found else 'without id'}, not {run_id}"
            raise ValueError(msg)
        set_journal(connection)
        _upgrade(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _upgrade(connection: sqlite3.Connection) -> None:
    """Give a record of an older version the tables that came since, so that its resumed run can write them."""
    (written,) = connection.execute("PRAGMA user_version").fetchone()
    if written < VERSION:
        with transaction(connection):
            for version in range(written + 1, VERSION + 1):
                for statement in ADDED[version].split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the pages in use; pages freed by thinning wait in the file to be used again."""
    count, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (count - free) * size


def is_locked(error: Exception) -> bool:
    """Whether another program held the record for longer than `LOCK_SECONDS`: nothing is broken, later it may do."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def one_line(error: Exception) -> str:
    """The error in one line, with SQLite's own name for it where it has one."""
    name = getattr(error, "sqlite_errorname", None)
    if name is None and not isinstance(error, OSError):
        name = type(error).__name__
    text = " ".join(str(error).split())
    return f"{text}, {name}" if name else text
