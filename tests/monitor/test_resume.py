"""A resumed run goes on in its record: nothing stands there twice."""

import sqlite3
import warnings
from pathlib import Path
from typing import Any

import pytest
from tests.monitor.written import column, rows, write

from truestep.monitor._schema import FILE
from truestep.monitor.sinks import Store


def interrupted(run_dir: Path, **settings: Any) -> None:
    """A run of ten steps that was interrupted after a checkpoint at 6."""
    store = Store(run_dir, meta={"id": "abc", "created": "1.0", "torch": "old"}, **settings)
    write(store, range(10), mark=1.0)
    write(store, range(10), mark=1.0, optimizer="AdamW")
    for index in range(10):
        store.schedule(1, index, 0, 0.1 / (index + 1))
        store.event("tag", f"epoch={index}", 1, index)
    store.event("note", "without a step")
    store.close()


def test_a_resumed_run_replaces_the_rows_from_its_checkpoint_on(tmp_path: Path) -> None:
    interrupted(tmp_path)
    store = Store(tmp_path, meta={"id": "other", "created": "2.0", "torch": "new"})
    store.resume("abc", {"SGD": 6, "AdamW": 8, "unknown": 3})
    path = tmp_path / FILE
    sql = "SELECT DISTINCT optimizer, step FROM {} ORDER BY optimizer, step"
    kept = [(1, step) for step in range(6)] + [(2, step) for step in range(8)]
    for table in ("step", "block_step", "balance_step", "task_step"):
        assert rows(path, sql.format(table)) == kept
    assert column(path, "SELECT step FROM schedule") == list(range(6))
    events = rows(path, "SELECT kind, optimizer, step FROM event ORDER BY id")
    assert events == [("tag", 1, step) for step in range(6)] + [("note", None, None)] + [
        ("resume", 1, 6),
        ("resume", 2, 8),
    ]
    write(store, range(6, 12), mark=2.0)
    store.close()
    assert column(path, "SELECT loss FROM step WHERE optimizer = 1 ORDER BY step") == [1.0] * 6 + [2.0] * 6
    assert column(path, "SELECT count(*) FROM block_step WHERE optimizer = 1 GROUP BY step") == [3] * 12


def test_a_resumed_run_keeps_its_id_and_age_and_goes_on_running(tmp_path: Path) -> None:
    interrupted(tmp_path)
    store = Store(tmp_path, meta={"id": "other", "created": "2.0", "torch": "new", "status": "running"})
    store.resume("abc", {"SGD": 6})
    assert dict(rows(tmp_path / FILE, "SELECT * FROM run")) == {
        "id": "abc",
        "created": "1.0",
        "status": "running",
        "torch": "new",
    }
    store.close()


def test_a_resumed_run_that_names_its_optimizers_in_another_order_writes_to_the_right_ones(tmp_path: Path) -> None:
    interrupted(tmp_path)
    store = Store(tmp_path, meta={})
    adam, sgd = (store.optimizer(name, name, "[]") for name in ("AdamW", "SGD"))  # before `resume`, as a watch does
    store.block("fc.bias", (4,), 4, "Linear.bias", None, adam)
    store.resume("abc", {"SGD": 6, "AdamW": 6})
    store.scalar((sgd, 6, 0.0, 5.0, 1, False))
    store.scalar((adam, 6, 0.0, 7.0, 1, False))
    store.schedule(adam, 6, 0, 0.7)
    store.event("tag", "x", adam, 6)
    store.close()
    sql = "SELECT name, loss FROM step JOIN optimizer ON optimizer.id = step.optimizer WHERE step = 6 ORDER BY name"
    assert rows(tmp_path / FILE, sql) == [("AdamW", 7.0), ("SGD", 5.0)]
    assert column(tmp_path / FILE, "SELECT optimizer FROM schedule WHERE step = 6") == [2]
    assert column(tmp_path / FILE, "SELECT optimizer FROM event WHERE step = 6 AND kind = 'tag'") == [2]
    assert column(tmp_path / FILE, "SELECT optimizer FROM block WHERE name = 'fc.bias'") == [2]


def spoil(path: Path, how: str) -> None:
    """Make a record unfit to be continued."""
    if how == "absent":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"\x01garbage" * 1000)
    elif how == "middle":
        with path.open("r+b") as file:
            for page in range(2, path.stat().st_size // 4096):
                file.seek(4096 * page)
                file.write(b"\xff" * 64)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 7" if how == "version" else "UPDATE run SET value = 'xyz'")
        connection.close()


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("absent", "does not exist"),
        ("garbage", r"damaged \(file is not a database\)"),
        ("middle", "is damaged"),
        ("version", "version 7, this truestep reads versions 1 to 3"),
        ("id", "holds run xyz, not abc"),
    ],
)
def test_a_record_that_cannot_be_resumed_is_warned_of_and_renamed(tmp_path: Path, how: str, found: str) -> None:
    interrupted(tmp_path)
    spoil(tmp_path / FILE, how)
    store = Store(tmp_path, meta={"id": "other"})
    with pytest.warns(RuntimeWarning, match=found) as caught:
        store.resume("abc", {"SGD": 6})
    message = str(caught[0].message)
    assert "fresh record" in message
    assert "\n" not in message
    write(store, range(6, 8))
    store.close()
    assert column(tmp_path / FILE, "SELECT step FROM step") == [6, 7]
    assert column(tmp_path / FILE, "SELECT value FROM run WHERE key = 'id'") == ["abc"]  # the next resume finds it
    older = [file.name for file in tmp_path.glob("run-*.db")]
    assert len(older) == (how != "absent")
    assert all(f"was renamed {name}" in message for name in older)


def test_resume_after_the_first_row_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    write(store, range(1))
    with pytest.raises(ValueError, match="before the first step"):
        store.resume("abc", {})
    store.close()


def test_a_run_in_memory_that_resumes_begins_anew_without_a_warning() -> None:
    store = Store(None, meta={})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.resume("abc", {"SGD": 6})
    write(store, range(6, 8))
    store.close()
    assert store.reader().losses()[0].tolist() == [6, 7]
