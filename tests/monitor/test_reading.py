"""A record is opened where nothing may be written, and what is no record is named."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.monitor.written import NAMES, write

from truestep.monitor import _reading
from truestep.monitor._run import load_run
from truestep.monitor._schema import FILE
from truestep.monitor.sinks import Store

# --- where nothing may be written


def left_by_a_kill(run_dir: Path, target: Path) -> None:
    """Copy what lies on the disk in the middle of a run."""
    target.mkdir()
    for name in (FILE, f"{FILE}-wal"):
        shutil.copy(run_dir / name, target / name)


def forbid(monkeypatch: pytest.MonkeyPatch, *ways: str) -> list[str]:
    """Let SQLite refuse these ways of opening, as it does in a directory that cannot be written."""
    connect, used = sqlite3.connect, []

    def picky(name: str, **settings: Any) -> sqlite3.Connection:
        way = name.rpartition("?")[2]
        if way in ways:
            return connect("file:/nowhere/run.db?mode=ro", **settings)  # unable to open database file
        used.append(way)
        return connect(name, **settings)

    monkeypatch.setattr(_reading.sqlite3, "connect", picky)
    return used


def test_a_log_that_cannot_be_shared_is_read_from_a_copy(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, range(8))
    store.flush()
    left_by_a_kill(tmp_path, tmp_path / "killed")
    before = {file.name: file.read_bytes() for file in (tmp_path / "killed").iterdir()}
    used = forbid(monkeypatch, "mode=ro")
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(_reading.tempfile, "tempdir", str(copies))
    with load_run(tmp_path / "killed") as run:
        assert run.losses()[0].tolist() == list(range(8))
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            run.query("DELETE FROM step")
    assert used == ["mode=rw"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "killed").iterdir()} == before
    assert list(copies.iterdir()) == []


def test_a_record_without_log_is_read_as_it_lies(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = forbid(monkeypatch, "mode=ro")
    with load_run(run_dir) as run:
        assert run.losses()[0].tolist() == list(range(8))
    assert used == ["immutable=1"]


def test_a_rollback_journal_left_by_a_kill_is_played_back_in_a_copy(run_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "killed"
    target.mkdir()
    with sqlite3.connect(run_dir / FILE, isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE block_step SET ww = -1")  # pages spill into the file before the commit
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
            "INSERT INTO event (time, kind, text) SELECT i, 'note', 'half written' FROM n"
        )
        for name in (FILE, f"{FILE}-journal"):
            shutil.copy(run_dir / name, target / name)
        connection.execute("ROLLBACK")
    connection.close()
    before = (target / FILE).read_bytes()
    with load_run(target) as run:
        assert run.events == ()
        assert run.query("SELECT min(ww) FROM block_step") == [(6.0,)]
    assert (target / FILE).read_bytes() == before


# --- what is no record


def read_all(place: Path) -> list[Any]:
    with load_run(place) as run:
        return [list(run.steps), run.meta, run.blocks, run.events, run.losses()]


def message(place: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read_all(place)
    assert "\n" not in str(caught.value)
    assert str(place) in str(caught.value)
    return str(caught.value)


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert "does not exist; give the directory of a watched run" in message(tmp_path / "nowhere")


def test_a_directory_without_record_is_named_with_the_older_records_in_it(tmp_path: Path, run_dir: Path) -> None:
    assert f"has no {FILE}; give that of a watched run" in message(tmp_path)
    (run_dir / FILE).rename(run_dir / "run-20231114T221320Z.db")
    assert "older records there are run-20231114T221320Z.db" in message(run_dir)
    with load_run(run_dir / "run-20231114T221320Z.db") as run:
        assert len(run.steps) == 8


def test_an_empty_file_is_a_run_that_was_killed_at_its_start(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    assert "is empty" in message(tmp_path)


def test_the_database_of_another_program_is_no_record(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE run (key, value)")
    connection.close()
    assert "no truestep record (application_id 0x0, expected 0x74727374)" in message(tmp_path)


def test_a_record_of_another_version_is_named_with_both_versions(run_dir: Path) -> None:
    connection = sqlite3.connect(run_dir / FILE)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    assert "has record version 7, this truestep reads versions 1 to 3" in message(run_dir)


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"\x01garbage" * 1000)
    assert "is damaged (file is not a database)" in message(tmp_path)


@pytest.mark.parametrize("pages", [1, 3, 8])
def test_a_truncated_record_is_damaged(run_dir: Path, pages: int) -> None:
    with (run_dir / FILE).open("r+b") as file:
        file.truncate(4096 * pages)
    assert "is damaged" in message(run_dir)


def test_damage_found_while_reading_names_the_file(run_dir: Path) -> None:
    with load_run(run_dir) as run:
        (page,) = run.query("SELECT rootpage FROM sqlite_master WHERE name = 'block_step'")[0]
    with (run_dir / FILE).open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xff" * 64)
    with load_run(run_dir) as run:  # the head is whole
        assert run.meta["id"] == "abc"
        with pytest.raises(ValueError, match=r"is damaged \(database disk image is malformed\).*recover"):
            list(run.steps)


def test_a_name_whose_bytes_were_overwritten_is_damage(run_dir: Path) -> None:
    content = (run_dir / FILE).read_bytes()
    assert content.count(NAMES[0].encode()) == 2  # in the table and in its index
    (run_dir / FILE).write_bytes(content.replace(NAMES[0].encode(), b"\xff" * len(NAMES[0])))
    assert "is damaged" in message(run_dir)


def test_a_shape_that_is_none_is_damage(run_dir: Path) -> None:
    connection = sqlite3.connect(run_dir / FILE)
    with connection:
        connection.execute("UPDATE block SET shape = '[3, '")
    connection.close()
    assert "is damaged (shape '[3, ')" in message(run_dir)
