"""Whatever fails in watching, training goes on bit by bit as it would have, after one warning."""

import math
import signal
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import forked
from tests.monitor.loops import Loop, assert_bit_equal, hooks, unwatched

from truestep import Watch
from truestep.core import _recorder
from truestep.monitor import _watch, load_run
from truestep.monitor.sinks import _place, _sqlite, _writer

STEPS = 8
pytestmark = pytest.mark.usefixtures("unchecked")  # beartype draws random numbers


def boom(*_: Any, **__: Any) -> Any:
    raise ArithmeticError("boom")


@contextmanager
def one_warning(capsys: pytest.CaptureFixture[str], *, errors: bool) -> Iterator[list[str]]:
    """Exactly one RuntimeWarning of one line; on stderr where warnings are errors."""
    said: list[str] = []
    with warnings.catch_warnings(record=not errors) as caught:
        warnings.simplefilter("error" if errors else "always")
        yield said
    assert all(warning.category is RuntimeWarning for warning in caught or ())
    said += [str(warning.message) for warning in caught or ()] or capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    assert "training goes on" in said[0]
    assert "\n" not in said[0]


# Where an exception is put into our own code: a module, the name to replace in it.
INJECTED: dict[str, tuple[Any, str]] = {
    "what to measure": (_recorder, "list_blocks"),
    "measuring": (_recorder, "measure"),
    "what was asked": (_recorder, "asked_of"),
    "a store": (_sqlite.Store, "step"),
    "the period": (_watch.Cadence, "recorded"),
    "the console": (_watch.Console, "step"),
    "the every-step path": (_watch.Ledger, "end"),
}


@pytest.mark.parametrize("errors", [False, True], ids=["warned", "warnings are errors"])
@pytest.mark.parametrize("place", INJECTED)
def test_an_exception_of_ours_ends_the_watching_and_nothing_else(
    place: str,
    errors: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = unwatched(STEPS)
    loop = Loop()
    run = loop.watch(tmp_path)
    loop.train(run, 0, 3)
    with one_warning(capsys, errors=errors) as said:
        with monkeypatch.context() as patched:
            patched.setattr(*INJECTED[place], boom)
            loop.train(run, 3, 4)
        loop.train(run, 4, STEPS)
        run.close()
    assert_bit_equal(loop.state(), expected)
    assert said == ["truestep stopped watching, training goes on: ArithmeticError: boom"]
    with load_run(tmp_path) as record:
        assert record.meta["status"] == "failed"
        assert [(event.kind, event.text) for event in record.events][-1] == ("unwatched", "ArithmeticError: boom")
        assert [step.index for step in record.steps][:3] == [0, 1, 2]
        assert record.losses()[1].tolist()[:2] == loop.losses[:2]


def test_after_a_failure_our_hooks_do_nothing_and_no_copy_of_the_weights_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop()
    run = loop.watch()
    loop.train(run, 0, 2)
    recorder = run._lanes["SGD"].recorder
    assert recorder._weights._of
    with monkeypatch.context() as patched:
        patched.setattr(*INJECTED["measuring"], boom)
        with pytest.warns(RuntimeWarning, match="stopped watching"):
            loop.train(run, 2, 3)
    assert not recorder._weights._of
    monkeypatch.setattr(*INJECTED["measuring"], boom)
    monkeypatch.setattr(*INJECTED["what to measure"], boom)
    monkeypatch.setattr(*INJECTED["the every-step path"], boom)
    loop.train(run, 3, 6)
    assert len(run.steps) == 3 - 1


# --- the disk


def a_file_in_the_way(path: Path) -> Path:
    path.write_text("")
    return path


def a_file_above(path: Path) -> Path:
    path.write_text("")
    return path / "run"


@pytest.mark.parametrize("errors", [False, True], ids=["warned", "warnings are errors"])
@pytest.mark.parametrize("where", [a_file_in_the_way, a_file_above])
def test_an_unwritable_directory_costs_the_record_and_not_the_run(
    where: Callable[[Path], Path], errors: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = unwatched(STEPS)
    loop = Loop()
    with one_warning(capsys, errors=errors) as said, loop.watch(where(tmp_path / "there")) as run:
        loop.train(run, 0, STEPS)
        run.state_dict()
    assert_bit_equal(loop.state(), expected)
    assert "cannot be written" in said[0]
    assert str(tmp_path / "there") in said[0]


@pytest.mark.parametrize("errors", [False, True], ids=["warned", "warnings are errors"])
def test_a_disk_that_fills_up_in_mid_run_costs_what_comes_after(
    errors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = unwatched(STEPS)
    loop = Loop()
    run = loop.watch(tmp_path)
    loop.train(run, 0, 4)
    run.flush()

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with one_warning(capsys, errors=errors) as said:
        monkeypatch.setattr(_writer, "insert", full)
        loop.train(run, 4, 6)
        run.flush()
        monkeypatch.undo()
        loop.train(run, 6, STEPS)
        run.close()
    assert_bit_equal(loop.state(), expected)
    assert "disk is full" in said[0]
    with load_run(tmp_path) as record:
        assert [step.index for step in record.steps] == [0, 1, 2, 3]
        assert record.meta["status"] == "running"


def test_a_record_that_is_deleted_in_mid_run_is_told_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop()
    run = loop.watch(tmp_path)
    loop.train(run, 0, 2)
    run.flush()
    with one_warning(capsys, errors=False) as said:
        (tmp_path / "run.db").unlink()
        loop.train(run, 2, 4)
        run.close()
    assert "No such file" in said[0]


def test_a_directory_that_another_process_records_in_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if _place.fcntl is None:
        pytest.skip("needs flock")
    monkeypatch.setattr(_place.fcntl, "flock", lambda *_: (_ for _ in ()).throw(BlockingIOError()))
    loop = Loop()
    with one_warning(capsys, errors=False) as said, loop.watch(tmp_path) as run:
        loop.train(run, 0, 2)
    assert "another process is recording" in said[0]
    assert "give every run its own `run_dir`" in said[0]


# --- what is not finite


def spoil(loop: Loop, value: float, what: str) -> Callable[[int], None]:
    """Put `value` into a weight or gradient before step 3."""

    def before(step: int) -> None:
        if step == 3:
            target = loop.model.fc.weight if what == "weight" else loop.model.fc.weight.grad
            assert target is not None
            with torch.no_grad():
                target[0, 0] = value

    return before


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["weight", "gradient"])
def test_weights_and_gradients_that_are_not_finite_are_recorded_shown_and_told_once_a_block(
    what: str, value: float, tmp_path: Path
) -> None:
    expected = unwatched(STEPS, lambda loop: spoil(loop, value, what))
    loop = Loop()
    with loop.watch(tmp_path) as run:
        loop.train(run, 0, STEPS, spoil(loop, value, what))
        page = run.report()
    assert_bit_equal(loop.state(), expected)
    with load_run(tmp_path) as record:
        steps = list(record.steps)
        told = [(event.step, event.text.rpartition(" in ")[2]) for event in record.events if event.kind == "nonfinite"]
    assert len(steps) == STEPS
    assert all(torch.isfinite(step.took.columns()).all() for step in steps[:3])
    assert not torch.isfinite(steps[3].took.columns()[3]).all()
    assert told[0] == (3, "fc.weight")
    names = [name for _, text in told for name in text.split(", ")]
    assert len(names) == len(set(names))
    assert "<html" in page.read_text()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_recorded_and_the_report_is_drawn(value: float, tmp_path: Path) -> None:
    loop = Loop()
    with loop.watch(tmp_path) as run:
        for step in range(4):
            loop.train(None, step, step + 1)
            run.log(loss=value if step == 2 else 1.0)
        run.report()
    with load_run(tmp_path) as record:
        found = record.losses()[1].tolist()
    assert found[:2] == [1.0, 1.0]
    assert found[2] == value or (math.isnan(found[2]) and math.isnan(value))


# --- the end


def test_an_interrupt_inside_the_block_closes_the_record_as_failed(tmp_path: Path) -> None:
    loop = Loop()

    def interrupted() -> None:
        with loop.watch(tmp_path) as run:
            loop.train(run, 0, 3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert hooks(loop.optimizer) == 0
    with load_run(tmp_path) as record:
        assert record.meta["status"] == "failed"
        assert record.losses()[1].tolist() == loop.losses


def test_what_is_logged_after_the_end_is_harmless(tmp_path: Path) -> None:
    loop = Loop()
    with loop.watch(tmp_path) as run:
        loop.train(run, 0, 2)
    run.log(loss=0.5, epoch=3)
    run.flush()
    run.close()
    assert [step.loss for step in run.steps] == loop.losses
    with load_run(tmp_path) as record:
        assert record.events == ()


PROGRAM = """
import os, signal, sys, torch
from pathlib import Path
from tests.monitor.loops import Loop
torch.set_num_threads(1)
loop = Loop()
run = loop.watch(Path(sys.argv[1]))
loop.train(run, 0, 5)
if sys.argv[2] in ("exit", "kill"):
    run.flush()
if sys.argv[2] == "error":
    raise ArithmeticError("not ours")
if sys.argv[2] == "exit":
    os._exit(0)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "sys.exit":
    sys.exit(3)
"""


ENDS = [("end", 0, "finished"), ("sys.exit", 3, "finished"), ("error", 1, "failed"), ("exit", 0, "running")]
ENDS += [("kill", -9, "running")] if hasattr(signal, "SIGKILL") else []


@pytest.mark.parametrize(("how", "code", "status"), ENDS)
def test_a_process_that_never_closes_its_watch_leaves_a_record_that_says_how_it_ended(
    how: str, code: int, status: str, tmp_path: Path
) -> None:
    done = forked.run("-c", PROGRAM, tmp_path, how)
    assert done.returncode == code, done.stderr
    assert ("ArithmeticError: not ours" in done.stderr) if how == "error" else (done.stderr == "")
    with load_run(tmp_path) as record:
        assert record.meta["status"] == status
        assert [step.index for step in record.steps] == list(range(5))
        assert record.losses()[0].tolist() == list(range(5))


def test_two_watches_of_one_loop_do_not_disturb_each_other(tmp_path: Path) -> None:
    expected = unwatched(STEPS)
    loop = Loop()
    runs: list[Watch] = [loop.watch(tmp_path / "one"), loop.watch(tmp_path / "two", every=2)]
    loop.train(runs[0], 0, STEPS)
    assert [len(run.steps) for run in runs] == [STEPS, STEPS // 2]
    for run in runs:
        run.close()
    assert_bit_equal(loop.state(), expected)


def test_a_loss_that_is_no_number_is_refused_and_the_training_goes_on() -> None:
    loop = Loop()
    run = loop.watch(every=1)
    loop.optimizer.step()
    with pytest.raises(ValueError, match="`loss` must be one number"):
        run.log(loss=np.array([1.0, 2.0]), samples=2)
    run.log(loss=np.float32(0.5), samples=2)
    loop.optimizer.step()
    run.flush()
    assert next(iter(run.steps)).loss == 0.5
    run.close()


def test_losses_that_do_not_add_up_stop_the_watch_and_not_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    run = loop.watch(every=1)
    loop.optimizer.step()
    run._ledger.log("one", 2)  # type: ignore[arg-type]
    run._ledger.log("two", 3)  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match="truestep"):
        loop.optimizer.step()
    assert run._closed
    loop.optimizer.step()


def test_a_watch_that_nobody_closed_goes_with_its_optimizer() -> None:
    import gc
    import weakref

    loop = Loop()
    model, run = weakref.ref(loop.model), loop.watch(every=1)
    store = run._store
    loop.optimizer.step()
    del loop, run
    gc.collect()
    assert model() is None
    assert store is not None
    assert store.reader().meta["status"] == "finished"


def test_a_resumed_run_counts_its_cost_on_and_no_step_twice() -> None:
    loop = Loop()
    run = loop.watch(every=1)
    loop.train(run, 0, 3)
    state = run.state_dict()
    run.close()
    again = Loop().watch(every=1)
    again.load_state_dict({**state, "next_step": {"SGD": 1_000_000}})
    assert again._meter.spent() == pytest.approx(state["cost_seconds"], rel=0.5)
    assert again._meter.wall() >= state["wall_seconds"]
    again.close()
