"""A run record opened for reading: also while it is written, after a kill, and where nothing may be written."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from truestep.monitor._schema import APPLICATION_ID, FILE, READS

DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)


def find(run_dir: str | Path) -> Path:
    """The record that `run_dir` names: the file itself, or `run.db` in the directory."""
    path = Path(run_dir)
    if path.is_file():
        return path
    if not path.is_dir():
        msg = f"`run_dir` {path} does not exist; give the directory of a watched run, or its {FILE}"
        raise ValueError(msg)
    if (path / FILE).is_file():
        return path / FILE
    older = sorted(file.name for file in path.glob("run-*.db"))
    hint = f"older records there are {', '.join(older)}: give one of them" if older else "give that of a watched run"
    msg = f"`run_dir` {path} has no {FILE}; {hint}"
    raise ValueError(msg)


def open_for_reading(path: Path) -> tuple[sqlite3.Connection, Callable[[], None]]:
    """A connection that cannot write, and what closes it.

    A killed run leaves a log that SQLite must be allowed to play back, or share, before it reads; where it may not
    (a directory or disk that cannot be written) the record is read from a copy.
    """
    with naming_damage(path):
        try:
            return _connected(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
        logs = [log for log in (Path(f"{path}-wal"), Path(f"{path}-journal")) if log.exists() and log.stat().st_size]
        return _copied(path, logs) if logs else _connected(path, "immutable=1")


def _connected(path: Path, how: str) -> tuple[sqlite3.Connection, Callable[[], None]]:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, timeout=60.0, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA query_only = ON")
        identify(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection, connection.close


def _copied(path: Path, logs: list[Path]) -> tuple[sqlite3.Connection, Callable[[], None]]:
    directory = tempfile.TemporaryDirectory(prefix="truestep-")
    try:
        for file in (path, *logs):
            shutil.copy(file, directory.name)
        connection, _ = _connected(Path(directory.name) / path.name, "mode=rw")
    except BaseException:
        directory.cleanup()
        raise

    def close() -> None:
        connection.close()
        directory.cleanup()

    return connection, close


@contextmanager
def naming_damage(where: object) -> Generator[None]:
    """Turn SQLite's words for a damaged file into a ValueError that names the file; other errors pass."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None and "decode" in str(error):  # a text that is no UTF-8: bytes of a record were overwritten
            code = sqlite3.SQLITE_CORRUPT
        if code is None or code & 0xFF not in DAMAGE:
            raise
        raise ValueError(_damage(where, error)) from error
    except UnicodeDecodeError as error:  # SQLite's own message holds such bytes
        raise ValueError(_damage(where, error)) from error


def _damage(where: object, error: Exception) -> str:
    return f"{where} is damaged ({error}); `sqlite3 {where} .recover` may save some of its rows"


def identify(connection: sqlite3.Connection, where: object) -> None:
    """Raise ValueError unless the database is a run record of a version that this truestep reads."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if pages == 0:
        msg = f"{where} is empty: its run ended before the first commit; start the run again"
        raise ValueError(msg)
    if application != APPLICATION_ID:
        msg = (
            f"{where} is an SQLite file but no truestep record (application_id {application:#x}, expected "
            f"{APPLICATION_ID:#x}); pass the directory of a watched run"
        )
        raise ValueError(msg)
    if version not in READS:
        msg = (
            f"{where} has record version {version}, this truestep reads versions {READS[0]} to {READS[-1]}; "
            "open it with the truestep that wrote it"
        )
        raise ValueError(msg)
