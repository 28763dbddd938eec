"""What is handed to the store is in the record once, as it was given."""

import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.monitor.written import NAMES, a_step, column, rows, write

from truestep.monitor._schema import FILE
from truestep.monitor.sinks import Store, _sqlite
from truestep.monitor.sinks._rows import Batch


def test_a_row_stands_in_the_record_as_it_was_given(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={"id": "abc", "created": "1.5", "status": "running"})
    store.meta("title", "first")
    store.meta("title", "digits")
    sgd = store.optimizer("SGD", "SGD", '[{"lr": 0.1}]')
    store.block("fc.weight", (3, 2), 6, "Linear.weight", "tensor", sgd)
    store.block("loose", (), 1, "Gain.loose")
    store.scalar((sgd, 7, 2.5, 0.25, 64, True))
    store.schedule(sgd, 7, 1, 0.05)
    store.event("tag", "epoch=3", sgd, 7)
    store.close()
    path = tmp_path / FILE
    meta = dict(rows(path, "SELECT * FROM run"))
    assert meta.pop("ended") > "1.6"
    assert meta == {"id": "abc", "created": "1.5", "status": "finished", "title": "digits"}
    assert rows(path, "SELECT * FROM optimizer") == [(1, "SGD", "SGD", '[{"lr": 0.1}]')]
    assert rows(path, "SELECT * FROM block") == [
        (1, "fc.weight", "[3, 2]", 6, "Linear.weight", "tensor", 1),
        (2, "loose", "[]", 1, "Gain.loose", None, None),
    ]
    assert rows(path, "SELECT * FROM step") == [(1, 7, 2.5, 0.25, 64.0, 1)]
    assert rows(path, "SELECT * FROM schedule") == [(1, 7, 1, 0.05)]
    assert rows(path, "SELECT optimizer, step, kind, text FROM event") == [(1, 7, "tag", "epoch=3")]


def test_a_recorded_step_stands_in_the_record_column_by_column(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    store.step(a_step(3, mark=0.5))
    store.close()
    found = rows(tmp_path / FILE, "SELECT * FROM block_step")
    assert found == [(1, 3, block, *(3e4 + 100.0 * (block - 1) + i for i in range(12))) for block in (1, 2, 3)]
    assert rows(tmp_path / FILE, "SELECT * FROM step") == [(1, 3, 1.7e9 + 3, 0.5, 32.0, 0)]
    assert column(tmp_path / FILE, "SELECT name FROM block ORDER BY id") == list(NAMES)


def test_the_row_of_the_ledger_counts_whether_it_comes_before_or_after_the_recorded_step(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    sgd = store.optimizer("SGD", "SGD", "[]")
    for index in (0, 1):
        if index:
            store.step(a_step(index, mark=9.0))
            store.flush()
        store.scalar((sgd, index, 1.0, 0.5, 8, False))
        if not index:
            store.flush()
            store.step(a_step(index, mark=9.0))
    store.close()
    assert column(tmp_path / FILE, "SELECT loss FROM step") == [0.5, 0.5]


@pytest.mark.parametrize("count", [1, 7, 8, 63, 64, 65, 200])
def test_any_number_of_rows_is_written_once(tmp_path: Path, count: int) -> None:
    store = Store(tmp_path, meta={})
    names = tuple(f"b{i}" for i in range(count))
    store.step(a_step(0, names=names))
    sgd = store.optimizer("SGD", "SGD", "[]")
    for index in range(count):
        store.scalar((sgd, index, 0.0, float(index), None, False))
    store.close()
    assert column(tmp_path / FILE, "SELECT loss FROM step ORDER BY step") == list(range(count))
    assert column(tmp_path / FILE, "SELECT ww FROM block_step ORDER BY block") == [6 + 100.0 * i for i in range(count)]


def test_nan_becomes_null_and_infinity_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    step = a_step(0)
    step.took.ww[:] = torch.tensor([math.nan, math.inf, -math.inf])
    step.asked.momentum[:] = math.nan
    store.step(step)
    sgd = store.optimizer("SGD", "SGD", "[]")
    store.scalar((sgd, 0, 1.0, math.nan, torch.tensor(math.inf), False))
    store.close()
    assert rows(tmp_path / FILE, "SELECT ww, momentum FROM block_step") == [
        (None, None),
        (math.inf, None),
        (-math.inf, None),
    ]
    assert rows(tmp_path / FILE, "SELECT loss, samples FROM step") == [(None, math.inf)]


def test_tensors_and_numpy_numbers_are_read_by_the_writer_in_every_format(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    sgd = store.optimizer("SGD", "SGD", "[]")
    weight = torch.tensor(0.5, requires_grad=True)
    given = [
        (torch.tensor(0.5), torch.tensor(3), torch.tensor(0.0)),
        (weight * 1, np.int64(3), torch.tensor(False)),
        (torch.tensor([0.5], dtype=torch.bfloat16), torch.tensor([3.0]), False),
        (np.float32(0.5), 3, None),
    ]
    for index, (loss, samples, skipped) in enumerate(given):
        store.scalar((sgd, index, 1.0, loss, samples, skipped))
    store.scalar((sgd, len(given), 1.0, None, None, torch.tensor(1.0)))
    store.schedule(sgd, 0, 0, torch.tensor(0.25))
    store.close()
    assert store.failure is None
    expected = [(0.5, 3.0, 0)] * len(given) + [(None, None, 1)]
    assert rows(tmp_path / FILE, "SELECT loss, samples, skipped FROM step") == expected
    assert column(tmp_path / FILE, "SELECT lr FROM schedule") == [0.25]


@pytest.mark.gpu
def test_losses_on_a_gpu_are_read_by_the_writer(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    sgd = store.optimizer("SGD", "SGD", "[]")
    for index in range(100):
        store.scalar((sgd, index, 1.0, torch.tensor(float(index), device="cuda"), 3, torch.zeros((), device="cuda")))
    store.close()
    assert column(tmp_path / FILE, "SELECT loss FROM step ORDER BY step") == list(range(100))


def test_a_block_registered_again_keeps_its_id_and_takes_what_is_new(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    store.step(a_step(0))  # unknown to the store: rows with a name only
    store.flush()
    sgd = store.optimizer("SGD", "SGD", "[1]")
    store.block("fc.bias", (4,), 4, "Linear.bias", None, sgd)
    store.step(a_step(1, names=(*NAMES, "late.weight")))
    store.close()
    found = rows(tmp_path / FILE, "SELECT id, name, shape FROM block")
    assert found == [(1, NAMES[0], None), (2, "fc.bias", "[4]"), (3, NAMES[2], None), (4, "late.weight", None)]
    assert rows(tmp_path / FILE, "SELECT id, settings FROM optimizer") == [(1, "[1]")]
    assert column(tmp_path / FILE, "SELECT block FROM block_step WHERE step = 1") == [1, 2, 3, 4]


class _Busy(list[Any]):
    """Rows to which the training thread appends while the writer takes them."""

    def __getitem__(self, place: Any) -> Any:
        taken = super().__getitem__(place)
        if isinstance(place, slice):
            self.append(("late", "row"))
        return taken


def test_a_row_that_comes_while_others_are_taken_stays_for_the_next_commit() -> None:
    batch = Batch(meta=_Busy([("a", "1"), ("b", "2")]))
    assert batch.take().meta == [("a", "1"), ("b", "2")]
    assert list(batch.meta) == [("late", "row")]


def test_a_store_without_directory_holds_the_same_rows(tmp_path: Path) -> None:
    found = []
    for run_dir in (tmp_path, None):
        store = Store(run_dir, meta={"id": "abc", "created": "1.0"})
        write(store, range(5))
        with store.reader() as run:
            found.append([run.query(f"SELECT * FROM {table}") for table in ("run", "step", "block", "block_step")])
        store.close()
    assert found[0] == found[1]
    assert len(found[0][1]) == 5


def test_a_record_in_memory_is_read_while_it_grows_and_after_its_end_but_never_written_by_a_reader() -> None:
    store = Store(None, meta={})
    write(store, range(4))
    run = store.reader()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        run.query("DELETE FROM step")
    assert len(run.losses()[0]) == len(run.steps) == 4
    write(store, range(4, 6))
    store.close()
    assert store.failure is None
    assert len(run.losses()[0]) == len(store.reader().steps) == 6


def test_rows_are_committed_without_being_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={}, commit_every=0.01)
    write(store, range(3))
    for _ in range(1000):
        if (found := column(tmp_path / FILE, "SELECT step FROM step")) == [0, 1, 2]:
            break
        store._record.worker._thread.join(0.01)
    assert found == [0, 1, 2]
    store.close()


def test_many_rows_wake_the_writer_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, meta={}, commit_every=1e6)
    monkeypatch.setattr("truestep.monitor.sinks._record.WAKE_ROWS", 50)
    write(store, range(200))
    for _ in range(1000):
        if column(tmp_path / FILE, "SELECT step FROM step"):
            break
        store._record.worker._thread.join(0.01)
    assert column(tmp_path / FILE, "SELECT step FROM step")
    store.close()


def test_what_a_hanging_disk_cannot_take_is_dropped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite, "MOST_ROWS", 100)
    monkeypatch.setattr("truestep.monitor.sinks._record.WAKE_ROWS", 50)
    store = Store(tmp_path, meta={}, commit_every=1e6)
    sgd = store.optimizer("SGD", "SGD", "[]")
    store.flush()
    with store._record._lock:  # the disk hangs
        for index in range(1000):
            store.scalar((sgd, index, 0.0, 0.0, 1, False))
            store.step(a_step(index))
    store.close()
    assert 100 <= len(column(tmp_path / FILE, "SELECT step FROM step")) <= 250
    assert "did not keep up" in column(tmp_path / FILE, "SELECT text FROM event WHERE kind = 'thinned'")[0]
