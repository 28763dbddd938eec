"""No disk can hurt the training: one line says what happened."""

import resource
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.monitor.written import column, write

from truestep.monitor._schema import FILE
from truestep.monitor.sinks import Store, _file, _record


def assert_unrecorded(store: Store, *words: str) -> None:
    """One line says what happened; nothing raises, waits or grows any more."""
    assert store.failure is not None
    assert "\n" not in store.failure
    assert all(word in store.failure for word in (*words, "training goes on unrecorded"))
    write(store, range(100, 120))
    store.event("note", "text")
    store.flush()
    store.scalar((1, 0, 0.0, 0.0, 1, False))
    assert not store._batch
    store.close()


def test_a_full_disk_ends_the_recording_and_keeps_what_was_committed(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    write(store, range(10))
    store.flush()
    store._record.writer.connection.execute("PRAGMA max_page_count = 40")
    for start in range(10, 1000, 50):
        write(store, range(start, start + 50))
        store.flush()
    assert_unrecorded(store, "database or disk is full", str(tmp_path / FILE))
    assert column(tmp_path / FILE, "PRAGMA integrity_check") == ["ok"]
    assert column(tmp_path / FILE, "SELECT step FROM step")[:10] == list(range(10))
    assert column(tmp_path / FILE, "SELECT max(step) FROM step")[0] < 1000


def test_a_file_that_may_not_grow_ends_the_recording(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    write(store, range(10))
    store.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        for start in range(10, 2000, 100):
            write(store, range(start, start + 100))
            store.flush()
        assert_unrecorded(store, "SQLITE_IOERR")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert column(tmp_path / FILE, "PRAGMA integrity_check") == ["ok"]
    assert column(tmp_path / FILE, "SELECT step FROM step")[:10] == list(range(10))


@pytest.mark.parametrize("start", ["scalar", "flush", "open", "close", "resume"])
def test_a_directory_that_cannot_be_made_leaves_the_run_unrecorded(tmp_path: Path, start: str) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "run", meta={})
    starts: dict[str, Callable[[], object]] = {
        "scalar": lambda: write(store, range(1)),
        "resume": lambda: store.resume("abc", {}),
    }
    starts.get(start, getattr(store, start))()
    assert_unrecorded(store, "Not a directory")


def test_a_directory_in_the_place_of_the_record_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    (tmp_path / FILE / "precious").write_text("data")
    store = Store(tmp_path, meta={})
    write(store, range(2))
    store.close()
    assert store.failure is None  # it was renamed like any other thing
    assert [file.read_text() for file in tmp_path.glob("run-*.db/precious")] == ["data"]


def test_a_record_deleted_in_mid_run_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path / "run", meta={})
    write(store, range(10))
    store.flush()
    for file in (tmp_path / "run").iterdir():
        file.unlink()
    (tmp_path / "run").rmdir()
    write(store, range(10, 20))
    store.flush()
    assert_unrecorded(store, "No such file")


def test_a_row_that_no_record_can_hold_ends_the_recording_too(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    sgd = store.optimizer("SGD", "SGD", "[]")
    store.scalar((sgd, 2**70, 0.0, 0.0, 1, False))
    store.flush()
    assert_unrecorded(store, "OverflowError")


class _NoSharedMemory(sqlite3.Connection):
    """A disk where write-ahead logging does not work."""

    answer = "raises"

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "PRAGMA journal_mode = WAL":
            if self.answer == "raises":
                raise sqlite3.OperationalError("locking protocol")
            sql = "SELECT 'delete'"
        return super().execute(sql, *parameters)


@pytest.mark.parametrize("answer", ["raises", "answers"])
def test_where_write_ahead_logging_is_refused_a_rollback_journal_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(_NoSharedMemory, "answer", answer)
    connect = sqlite3.connect
    monkeypatch.setattr(_file.sqlite3, "connect", lambda *a, **k: connect(*a, factory=_NoSharedMemory, **k))
    store = Store(tmp_path, meta={"id": "abc"})
    write(store, range(10))
    store.flush()
    monkeypatch.undo()
    assert column(tmp_path / FILE, "PRAGMA journal_mode") == ["delete"]
    assert column(tmp_path / FILE, "SELECT step FROM step") == list(range(10))
    store.close()
    assert store.failure is None


def test_a_record_locked_by_another_program_is_written_when_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_file, "LOCK_SECONDS", 0.01)
    store = Store(tmp_path, meta={}, commit_every=0.01)
    write(store, range(10))
    store.flush()
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write(store, range(10, 20))
        store.event("tag", "once")
        with pytest.warns(RuntimeWarning, match=r"is late \(database is locked, SQLITE_BUSY\); training goes on"):
            store.flush()
        write(store, range(20, 30))
        store.flush()  # told already
        assert store.failure is None
        other.execute("COMMIT")
    store.close()
    assert store.failure is None
    assert column(tmp_path / FILE, "SELECT step FROM step") == list(range(30))
    assert column(tmp_path / FILE, "SELECT DISTINCT step FROM block_step ORDER BY step") == list(range(30))
    assert column(tmp_path / FILE, "SELECT text FROM event") == ["once"]


def test_a_record_that_is_locked_to_the_end_says_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_file, "LOCK_SECONDS", 0.01)
    store = Store(tmp_path, meta={})
    write(store, range(10))
    store.flush()
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write(store, range(10, 20))
        store.close()
    assert store.failure is not None
    assert "stayed locked (database is locked, SQLITE_BUSY); its last rows are lost" in store.failure
    assert column(tmp_path / FILE, "SELECT step FROM step") == list(range(10))


def test_a_disk_that_hangs_keeps_neither_a_flush_nor_the_end_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_record, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(_record, "LOCK_SECONDS", 0.0)
    store, answer = Store(tmp_path, meta={}), threading.Event()
    store.open()
    commit = store._record.writer.write
    monkeypatch.setattr(store._record.writer, "write", lambda batch: (answer.wait(60), commit(batch)))
    write(store, range(5))
    with pytest.warns(RuntimeWarning, match=r"is late \(no answer within 0\.01 s\); training goes on"):
        store.flush()
    store.flush()
    assert store.failure is None
    store.close()
    assert "got no answer from its disk" in str(store.failure)
    write(store, range(5, 9))
    answer.set()
    assert store._record.worker.stop(60.0)
    assert column(tmp_path / FILE, "SELECT step FROM step") == list(range(5))
    assert [file.name for file in tmp_path.iterdir()] == [FILE]  # closed after all
