"""A record is made late, ends with its process, and is left alone by forked children."""

import gc
import os
import weakref
from pathlib import Path

import pytest
from tests.monitor.written import column, in_a_process, write

from truestep.monitor._schema import FILE
from truestep.monitor.sinks import Store

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


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


def test_the_end_of_the_process_commits_all_rows_but_does_not_call_the_run_finished(tmp_path: Path) -> None:
    source = """
        import sys; from pathlib import Path
        from tests.monitor.written import in_a_process, write
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
        from tests.monitor.written import in_a_process, write
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
        from tests.monitor.written import in_a_process, write
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
        from tests.monitor.written import in_a_process, write
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
