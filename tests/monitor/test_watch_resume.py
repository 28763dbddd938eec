"""A run that goes on from a checkpoint stands in one record, each step once."""

import io
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import forked
from tests.monitor.loops import Loop

from truestep.monitor import load_run
from truestep.monitor._schema import FILE


def saved(loop: Loop, run: Any) -> bytes:
    """A checkpoint as it is written and read without pickled objects."""
    buffer = io.BytesIO()
    model, optimizer = loop.model.state_dict(), loop.optimizer.state_dict()
    torch.save({"model": model, "optimizer": optimizer, "watch": run.state_dict()}, buffer)
    return buffer.getvalue()


def loaded(checkpoint: bytes, loop: Loop) -> dict[str, Any]:
    state = torch.load(io.BytesIO(checkpoint), weights_only=True)
    loop.model.load_state_dict(state["model"])
    loop.optimizer.load_state_dict(state["optimizer"])
    return state["watch"]


def first_part(run_dir: Path | None, **options: Any) -> tuple[bytes, Loop]:
    """30 steps with a checkpoint after 20, the last ten of which are to be replaced."""
    loop = Loop()
    run = loop.watch(run_dir, **options)
    loop.train(run, 0, 20)
    checkpoint = saved(loop, run)
    loop.optimizer.param_groups[0]["lr"] = 0.01
    loop.train(run, 20, 30)
    run.log(epoch=1)
    run.close("failed")
    return checkpoint, loop


def whole(steps: int, **options: Any) -> list[Any]:
    """What an uninterrupted run records."""
    loop = Loop()
    with loop.watch(**options) as run:
        loop.train(run, 0, steps)
        return told(run.steps)


def told(steps: Any) -> list[Any]:
    return [(step.index, step.loss, step.names, step.took.columns().tolist()) for step in steps]


@pytest.mark.parametrize("every", [1, 3])
def test_a_resumed_run_holds_every_step_once_and_equals_one_that_was_never_interrupted(
    every: int, tmp_path: Path
) -> None:
    checkpoint, _ = first_part(tmp_path, every=every)
    with load_run(tmp_path) as record:
        first_id, created = record.meta["id"], record.meta["created"]
        assert record.losses()[0].tolist() == list(range(30))
    loop = Loop()
    with loop.watch(tmp_path, every=every) as run:
        run.load_state_dict(loaded(checkpoint, loop))
        loop.train(run, 20, 40)
    with load_run(tmp_path) as record:
        assert record.losses()[0].tolist() == list(range(40))
        assert told(record.steps) == whole(40, every=every)
        assert (record.meta["id"], record.meta["created"], record.meta["status"]) == (first_id, created, "finished")
        assert record.query("SELECT count(*) FROM schedule WHERE lr = 0.01") == [(0,)]
        assert [(event.kind, event.step) for event in record.events] == [("resume", 20)]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_the_order_of_step_and_log_and_the_period_are_resumed_too(tmp_path: Path) -> None:
    loop = Loop()
    run = loop.watch(tmp_path, every="auto")
    loop.train(run, 0, 3)
    run._cadence.period = 16
    checkpoint = saved(loop, run)
    run.close()
    loop = Loop()
    with loop.watch(tmp_path, every="auto") as run:
        run.load_state_dict(loaded(checkpoint, loop))
        assert run._cadence.period == 16
        run.log(loss=-1.0)  # before the first step here, and yet it belongs to one that is over
        loop.train(run, 3, 6)
    with load_run(tmp_path) as record:
        assert record.losses()[1].tolist()[3:] == loop.losses


def test_a_fixed_period_is_that_of_the_new_watch() -> None:
    checkpoint, loop = first_part(None, every=1)
    with loop.watch(every=5) as run:
        run.load_state_dict(loaded(checkpoint, loop))
        loop.train(run, 20, 31)
        assert [step.index for step in run.steps] == [20, 25, 30]


def test_a_record_in_memory_goes_on_counting_from_the_checkpoint() -> None:
    checkpoint, _ = first_part(None)
    loop = Loop()
    with loop.watch() as run:
        run.load_state_dict(loaded(checkpoint, loop))
        loop.train(run, 20, 23)
        assert [step.index for step in run.steps] == [20, 21, 22]


def test_a_checkpoint_between_a_step_and_its_log_loses_no_loss(tmp_path: Path) -> None:
    loop = Loop()
    with loop.watch(tmp_path) as run:
        loop.train(run, 0, 2)
        loss = loop.backward(2)
        loop.optimizer.step()
        state = run.state_dict()
        run.log(loss=loss)
    assert state["next_step"] == {"SGD": 3}
    with load_run(tmp_path) as record:
        assert record.losses()[1].tolist() == loop.losses


def test_a_state_that_comes_after_a_step_is_refused() -> None:
    loop = Loop()
    with loop.watch() as run:
        state = run.state_dict()
        loop.train(run, 0, 1)
        with pytest.raises(ValueError, match="`load_state_dict` must come before the first step"):
            run.load_state_dict(state)


def another_run(run_dir: Path) -> str:
    loop = Loop()
    with loop.watch(run_dir) as run:
        loop.train(run, 0, 2)
    return "holds run"


def no_record(run_dir: Path) -> str:
    (run_dir / FILE).unlink()
    return "does not exist"


def another_version(run_dir: Path) -> str:
    with closing(sqlite3.connect(run_dir / FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    return "has record version 99, this truestep reads versions 1 to 3"


def damaged(run_dir: Path) -> str:
    data = bytearray((run_dir / FILE).read_bytes())
    data[100:4096] = b"\xff" * 3996
    (run_dir / FILE).write_bytes(data)
    return "is damaged"


def foreign(run_dir: Path) -> str:
    (run_dir / FILE).write_text("no database at all, but quite long enough to be looked into")
    return "is damaged"


@pytest.mark.parametrize("errors", [False, True], ids=["warned", "warnings are errors"])
@pytest.mark.parametrize("ruin", [another_run, no_record, another_version, damaged, foreign])
def test_where_there_is_no_such_record_one_warning_says_so_and_a_fresh_one_begins(
    ruin: Callable[[Path], str], errors: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, _ = first_part(tmp_path)
    why = ruin(tmp_path)
    there = len(list(tmp_path.iterdir()))
    loop = Loop()
    with warnings.catch_warnings(record=not errors) as caught:
        warnings.simplefilter("error" if errors else "always")
        run = loop.watch(tmp_path)
        run.load_state_dict(loaded(checkpoint, loop))
        loop.train(run, 20, 25)
        run.close()
    said = [str(warning.message) for warning in caught or ()] or capsys.readouterr().err.splitlines()
    (message,) = said
    assert why in message
    assert "the run goes on in a fresh record" in message
    assert "\n" not in message
    with load_run(tmp_path) as record:
        assert record.losses()[0].tolist() == list(range(20, 25))
    assert len(list(tmp_path.iterdir())) == there + 1  # what lay there was renamed


def test_a_run_that_is_not_resumed_is_renamed_and_never_mixed(tmp_path: Path) -> None:
    for steps in (3, 5, 7):
        loop = Loop()
        with loop.watch(tmp_path) as run:
            loop.train(run, 0, steps)
    counts = {}
    for path in tmp_path.glob("*.db"):
        with load_run(path) as record:
            counts[path.name] = len(record.steps)
    assert counts.pop(FILE) == 7
    assert sorted(counts.values()) == [3, 5]


PROGRAM = """
import os, sys, torch
from pathlib import Path
from tests.monitor.loops import Loop
torch.set_num_threads(1)
run_dir, start, stop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
loop = Loop()
run = loop.watch(run_dir)
if start:
    state = torch.load(run_dir / "state.pt", weights_only=True)
    loop.model.load_state_dict(state["model"])
    loop.optimizer.load_state_dict(state["optimizer"])
    run.load_state_dict(state["watch"])
loop.train(run, start, stop - 5)
states = {"model": loop.model.state_dict(), "optimizer": loop.optimizer.state_dict(), "watch": run.state_dict()}
torch.save(states, run_dir / "state.pt")
loop.train(run, stop - 5, stop)
run.flush()
os._exit(9)
"""


def test_a_run_killed_twice_and_resumed_in_other_processes_holds_every_step_once(tmp_path: Path) -> None:
    for start, stop in ((0, 15), (10, 25), (20, 35)):
        done = forked.run("-c", PROGRAM, tmp_path, start, stop)
        assert (done.returncode, done.stderr) == (9, "")
    with load_run(tmp_path) as record:
        assert record.losses()[0].tolist() == list(range(35))
        assert told(record.steps) == whole(35)
        assert record.meta["status"] == "running"
        assert [event.step for event in record.events] == [10, 20]
