"""No record in a run's directory is overwritten, and one process writes there."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.monitor.written import column, in_a_process, write

from truestep.monitor._schema import FILE
from truestep.monitor.sinks import Store


def test_an_existing_record_is_renamed_and_its_rows_stay(tmp_path: Path) -> None:
    for mark in (1.0, 2.0, 3.0):
        store = Store(tmp_path, meta={"created": "1700000000.0"})
        write(store, range(2), mark=mark)
        store.close()
    names = ["run-20231114T221320Z.db", "run-20231114T221320Z-2.db", FILE]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    assert [column(tmp_path / name, "SELECT DISTINCT loss FROM step") for name in names] == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize("content", [b"no database" * 500, b"SQLite format 3\0" + b"\x07" * 5000])
def test_a_foreign_file_in_the_place_of_the_record_is_renamed_untouched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    os.utime(tmp_path / FILE, (1.7e9, 1.7e9))
    store = Store(tmp_path, meta={})
    write(store, range(2))
    store.close()
    assert (tmp_path / "run-20231114T221320Z.db").read_bytes() == content
    assert column(tmp_path / FILE, "SELECT step FROM step") == [0, 1]


def test_the_log_of_a_killed_run_that_is_being_read_is_renamed_with_it(tmp_path: Path) -> None:
    first = Store(tmp_path / "live", meta={})
    write(first, range(2))
    first.flush()
    killed = shutil.copytree(tmp_path / "live", tmp_path / "killed")
    first.close()
    reader = sqlite3.connect(killed / FILE, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM step").fetchone() == (2,)
    second = Store(killed, meta={})
    write(second, range(3))
    second.close()
    (older,) = killed.glob("run-*.db")
    assert Path(f"{older}-wal").stat().st_size > 0
    reader.close()
    assert column(older, "SELECT step FROM step") == [0, 1]
    assert column(killed / FILE, "SELECT step FROM step") == [0, 1, 2]


def test_a_newer_store_of_the_same_process_takes_the_directory_over(tmp_path: Path) -> None:
    first, second = Store(tmp_path, meta={}), Store(tmp_path / ".", meta={})
    write(first, range(4))
    write(second, range(2))
    write(first, range(4, 8))
    assert "taken over" in (first.failure or "")
    second.close()
    (older,) = tmp_path.glob("run-*.db")
    assert column(older, "SELECT step FROM step") == [0, 1, 2, 3]
    assert column(tmp_path / FILE, "SELECT step FROM step") == [0, 1]


def test_a_record_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    source = """
        import sys; from pathlib import Path
        from tests.monitor.written import in_a_process, write
        from truestep.monitor.sinks import Store
        store = Store(Path(sys.argv[1]), meta={})
        write(store, range(5))
        store.close()
        print(store.failure)
    """
    store = Store(tmp_path, meta={})
    write(store, range(3))
    assert "another process is recording" in in_a_process(source, tmp_path)
    store.close()
    assert store.failure is None
    assert column(tmp_path / FILE, "SELECT step FROM step") == [0, 1, 2]
