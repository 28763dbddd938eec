"""The store: what is handed over is in the record once, and no disk can hurt the training."""

import gc
import math
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.monitor.written import NAMES, a_step, column, rows, write

from truestep.monitor._schema import FILE
from truestep.monitor.sinks import Store, _file, _process, _sqlite
from truestep.monitor.sinks._rows import Batch
from truestep.monitor.sinks._thin import thin_scalars
from truestep.monitor.sinks._worker import Worker

ROOT = Path(__file__).resolve().parents[2]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def nothing_left_open() -> Any:
    yield
    _process._PROCESS.end()


def in_a_process(source: str, *arguments: object) -> str:
    """Output of a Python program that ends by itself."""
    quiet = "ignore:This process:DeprecationWarning"  # 3.12 on: forking beside threads is what is tested here
    command = [sys.executable, "-W", quiet, "-c", textwrap.dedent(source), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


# --- what is written


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


# --- life


def test_nothing_is_made_before_the_first_row(tmp_path: Path) -> None:
    store = Store(tmp_path / "new", meta={})
    store.optimizer("SGD", "SGD", "[]")
    store.event("note", "text")
    assert not (tmp_path / "new").exists()
    store.scalar((1, 0, 0.0, 0.0, 1, False))
    assert (tmp_path / "new" / FILE).exists()
    store.close()


def test_a_run_without_any_step_leaves_a_record_that_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    store.close("failed")
    assert column(tmp_path / FILE, "SELECT value FROM run WHERE key = 'status'") == ["failed"]


def test_closing_twice_and_writing_after_it_change_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    write(store, range(2))
    store.close()
    before = (tmp_path / FILE).read_bytes()
    write(store, range(2, 9))
    store.flush()
    store.close("failed")
    assert (tmp_path / FILE).read_bytes() == before
    assert store.failure is None
    assert not store._batch


def test_a_closed_record_is_one_file(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    write(store, range(2))
    store.flush()
    assert column(tmp_path / FILE, "PRAGMA journal_mode") == ["wal"]
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    assert column(tmp_path / FILE, "PRAGMA journal_mode") == ["delete"]  # reads from a disk that is write-protected


def test_a_record_closed_while_it_is_read_is_whole_without_its_log(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={})
    write(store, range(3))
    with store.reader() as run:
        store.close()
        assert len(run.steps) == 3
        (tmp_path / "copy.db").write_bytes((tmp_path / FILE).read_bytes())
    assert column(tmp_path / "copy.db", "SELECT step FROM step") == [0, 1, 2]


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
        from tests.monitor.written import write
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


def test_the_end_of_the_process_commits_all_rows_but_does_not_call_the_run_finished(tmp_path: Path) -> None:
    source = """
        import sys; from pathlib import Path
        from tests.monitor.written import write
        from truestep.monitor.sinks import Store
        store = Store(Path(sys.argv[1]), meta={}, commit_every=1e6)
        write(store, range(5))
    """
    in_a_process(source, tmp_path)
    assert column(tmp_path / FILE, "SELECT step FROM step") == [0, 1, 2, 3, 4]
    assert column(tmp_path / FILE, "SELECT value FROM run WHERE key IN ('status', 'ended')") == ["running"]
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_a_watch_that_closes_at_the_end_of_the_process_finds_the_store_open(tmp_path: Path) -> None:
    source = """
        import atexit, sys; from pathlib import Path
        from tests.monitor.written import write
        from truestep.monitor.sinks import Store
        store = Store(Path(sys.argv[1]), meta={})
        atexit.register(store.close)
        write(store, range(5))
    """
    in_a_process(source, tmp_path)
    assert column(tmp_path / FILE, "SELECT value FROM run WHERE key = 'status'") == ["finished"]


@needs_fork
def test_a_forked_child_writes_nothing_and_its_end_closes_nothing(tmp_path: Path) -> None:
    source = """
        import os, sys; from pathlib import Path
        from tests.monitor.written import write
        from truestep.monitor.sinks import Store
        store = Store(Path(sys.argv[1]), meta={})
        write(store, range(5))
        if os.fork() == 0:
            write(store, range(100, 200))
            store.flush()
            store.close("failed")
            sys.exit(0)  # runs atexit and finalizers, as a child should not
        assert os.wait()[1] == 0
        assert Path(sys.argv[1], "run.db-wal").exists()
        write(store, range(5, 8))
        store.close()
        assert store.failure is None
    """
    in_a_process(source, tmp_path)
    assert column(tmp_path / FILE, "SELECT step FROM step") == list(range(8))
    assert column(tmp_path / FILE, "SELECT value FROM run WHERE key = 'status'") == ["finished"]


@needs_fork
def test_a_forked_child_does_not_keep_the_directory_of_its_dead_parent(tmp_path: Path) -> None:
    source = """
        import os, signal, sys; from pathlib import Path
        from tests.monitor.written import write
        from truestep.monitor.sinks import Store
        if (parent := os.fork()) == 0:
            store = Store(Path(sys.argv[1]), meta={})
            write(store, range(5))
            store.flush()
            if (child := os.fork()) == 0:  # a data loader that outlives the run
                signal.pause()
            Path(sys.argv[1], "child").write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(parent, 0)
        store = Store(Path(sys.argv[1]), meta={})
        write(store, range(3))
        store.close()
        os.kill(int(Path(sys.argv[1], "child").read_text()), signal.SIGKILL)
        assert store.failure is None, store.failure
    """
    in_a_process(source, tmp_path)
    assert column(tmp_path / FILE, "SELECT step FROM step") == [0, 1, 2]


def test_a_closed_store_is_let_go() -> None:
    store = Store(None, meta={})
    write(store, range(2))
    store.close()
    gone = weakref.ref(store), weakref.ref(store._record)
    del store
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_a_flush_in_the_middle_of_a_commit_waits_for_the_next_one() -> None:
    began, go = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]
    calls = iter(range(2))

    def commit() -> bool:
        call = next(calls)
        began[call].set()
        return go[call].wait(60) and call == 0

    worker = Worker(commit, 1e6)
    worker.wake()
    began[0].wait(60)
    flush = threading.Thread(target=worker.wait)
    flush.start()
    while worker._asked == 0:
        flush.join(0.001)
    go[0].set()  # what was handed over before the flush may not be in this one
    assert began[1].wait(60)
    flush.join(0.1)
    assert flush.is_alive()
    go[1].set()
    flush.join(60)
    assert not flush.is_alive()


# --- resume


def interrupted(run_dir: Path, **settings: Any) -> None:
    """A run of ten steps that was interrupted after a checkpoint at 6."""
    store = Store(run_dir, meta={"id": "abc", "created": "1.0", "torch": "old"}, **settings)
    write(store, range(10), mark=1.0)
    write(store, range(10), mark=1.0, optimizer="AdamW")
    for index in range(10):
        store.schedule(1, index, 0, 0.1)
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
    assert rows(path, sql.format("step")) == rows(path, sql.format("block_step")) == kept
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
        ("version", "version 7, this truestep reads version 1"),
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


# --- size


def grown(run_dir: Path | None, steps: int, blocks: int, *, batch: int = 20) -> Store:
    """A store of 300 kB at most that was given more than that."""
    store = Store(run_dir, meta={}, max_bytes=3e5)
    names = tuple(f"layer{i}.weight" for i in range(blocks))
    sgd = store.optimizer("SGD", "SGD", "[]")
    for index in range(steps):
        store.scalar((sgd, index, float(index), float(index), 1, False))
        store.schedule(sgd, index, 0, lr(index))
        if index % store.period == 0:
            store.step(a_step(index, names=names))
        if index % batch == 0:
            store.flush()
            assert store.bytes <= 3e5
    store.flush()
    return store


def lr(index: int) -> float:
    """A schedule that changes at every step."""
    return 1.0 + index


@pytest.mark.parametrize("blocks", [4, 400])
@pytest.mark.parametrize("in_memory", [False, True])
def test_the_recorded_steps_that_stay_are_exactly_the_multiples_of_the_period(
    tmp_path: Path, blocks: int, in_memory: bool
) -> None:
    steps = 20_000 // blocks
    store = grown(None if in_memory else tmp_path, steps, blocks)
    with store.reader() as run:
        kept = [step for (step,) in run.query("SELECT DISTINCT step FROM block_step ORDER BY step")]
        counts = {count for (count,) in run.query("SELECT count(*) FROM block_step GROUP BY step")}
        assert run.meta["min_period"] == str(store.period)
        assert [event.kind for event in run.events] == ["thinned"] * (store.period.bit_length() - 1)
    store.close()
    assert store.period > 1
    assert kept == list(range(0, steps, store.period))
    assert counts == {blocks}
    assert store.bytes <= 3e5


def test_pages_freed_by_thinning_are_used_again(tmp_path: Path) -> None:
    store = grown(tmp_path, 400, 100, batch=2)
    store.close()
    assert store.period >= 8
    assert (tmp_path / FILE).stat().st_size <= 3e5


def test_loss_and_samples_of_every_step_stay_as_long_as_they_fit(tmp_path: Path) -> None:
    store = grown(tmp_path, 200, 100)
    store.close()
    assert store.period > 1
    assert column(tmp_path / FILE, "SELECT step FROM step") == list(range(200))


def test_loss_and_lr_are_thinned_too_where_they_alone_fill_the_record(tmp_path: Path) -> None:
    steps = 20_000
    store = grown(tmp_path, steps, 1, batch=500)
    store.close()
    path = tmp_path / FILE
    period = int(column(path, "SELECT value FROM run WHERE key = 'min_scalar_period'")[0])
    assert period > 1
    assert column(path, "SELECT step FROM step") == list(range(0, steps, period))
    filled = "SELECT (SELECT lr FROM schedule WHERE schedule.step <= step.step ORDER BY step DESC LIMIT 1) FROM step"
    assert column(path, filled) == [lr(index) for index in range(0, steps, period)]  # forward fill is exact
    assert len(column(path, "SELECT step FROM schedule")) < steps / 2


def test_a_changed_lr_is_not_moved_past_the_last_step_where_a_later_change_would_come_before_it() -> None:
    connection = _file.create(None, {})
    connection.executemany("INSERT INTO step VALUES (1, ?, 0, 0, 0, 0)", [(step,) for step in range(7)])
    connection.executemany("INSERT INTO schedule VALUES (1, ?, 0, ?)", [(0, 0.0), (2, 0.2), (3, 0.3), (5, 0.5)])
    thin_scalars(connection, 4)
    found = connection.execute("SELECT step, lr FROM schedule ORDER BY step").fetchall()
    connection.close()
    assert found == [(0, 0.0), (4, 0.3), (5, 0.5)]  # 8 is to come, and so may be 7


def test_a_step_that_comes_late_is_dropped_by_the_period_in_force(tmp_path: Path) -> None:
    store = grown(tmp_path, 400, 100)
    odd = 1 + 400 // store.period * store.period
    store.step(a_step(odd))
    store.close()
    assert odd not in column(tmp_path / FILE, "SELECT DISTINCT step FROM block_step")


def test_a_resumed_run_keeps_the_period_of_its_record(tmp_path: Path) -> None:
    first = grown(tmp_path, 400, 100)
    first.meta("id", "abc")
    first.close()
    store = Store(tmp_path, meta={})
    store.resume("abc", {"SGD": 300})
    assert store.period == first.period > 1
    store.close()


def test_a_limit_below_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="`max_bytes` must be at least"):
        Store(None, meta={}, max_bytes=1e3)


# --- what a disk can do


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
