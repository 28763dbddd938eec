"""The file with the results."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import pytest

from truestep.compare.sweep._store import Store
from truestep.compare.sweep._worker import Outcome

GOOD, BAD = Outcome('{"x": 0.1}', None, 2.5), Outcome(None, "ValueError: x", 0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "store.db"


def test_what_was_saved_is_there_when_the_file_is_opened_again(path: Path) -> None:
    store = Store(path)
    store.save("aa", "label", "{}", GOOD, 1)
    store.save("bb", "", "[]", BAD, 2)
    store.close()
    store = Store(path)
    assert store.results(["aa", "bb", "cc"]) == {"aa": '{"x": 0.1}'}
    first, second = store.all()
    assert (first.hash, first.label, first.content, first.result, first.error) == (
        "aa",
        "label",
        "{}",
        {"x": 0.1},
        None,
    )
    assert (second.result, second.error, second.seconds, second.attempts) == (None, "ValueError: x", 0.5, 2)
    store.close()


def test_a_trial_stands_once_and_its_attempts_add_up() -> None:
    store = Store(None)
    store.save("aa", "", "{}", BAD, 1)
    store.save("aa", "", "{}", GOOD, 2)
    (trial,) = store.all()
    assert (trial.result, trial.error, trial.attempts) == ({"x": 0.1}, None, 3)


def test_nan_and_infinity_survive() -> None:
    store = Store(None)
    store.save("aa", "", "{}", Outcome('{"x": [NaN, Infinity]}', None, 0), 1)
    (trial,) = store.all()
    assert trial.result
    assert math.isnan(trial.result["x"][0])
    assert trial.result["x"][1] == math.inf


def test_others_read_while_it_is_written(path: Path) -> None:
    store, reader = Store(path), Store(path)
    with store.driving():
        store.save("aa", "", "{}", GOOD, 1)
        assert [trial.hash for trial in reader.all()] == ["aa"]
    store.close()
    reader.close()


def test_a_second_driver_is_told(path: Path) -> None:
    store, other = Store(path), Store(path)
    with (
        store.driving(),
        pytest.raises(ValueError, match=r"^`store` is being written by another sweep: .*store.db; wait"),
    ):
        other.driving().__enter__()
    with other.driving():
        pass
    store.close()
    other.close()


def test_a_store_in_memory_needs_no_lock() -> None:
    store = Store(None)
    with store.driving(), store.driving():
        store.save("aa", "", "{}", GOOD, 1)
    assert [trial.hash for trial in store.all()] == ["aa"]


def test_another_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE own (x)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^`store` must be a sweep's file, found another database: .*other.db$"):
        Store(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be read as the head of one " * 10)
    with pytest.raises(
        ValueError, match=r"^`store` must be a sweep's file, found .*notes.txt: file is not a database$"
    ):
        Store(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^`store` must be a file, found the folder .*: name one in it$"):
        Store(tmp_path)


def test_a_store_of_a_newer_truestep_is_refused(path: Path) -> None:
    store = Store(path)
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ValueError, match="newer truestep"):
        Store(path)


def test_a_store_that_was_closed_is_one_plain_file(path: Path) -> None:
    store = Store(path)
    store.save("aa", "", "{}", GOOD, 1)
    store.close()
    assert [other.name for other in path.parent.iterdir()] == ["store.db"]
