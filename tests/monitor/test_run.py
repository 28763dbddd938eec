"""A run read back: what was written, in order, and while it goes on."""

import math
import sqlite3
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from tests.monitor.written import NAMES, a_step, write

from truestep.monitor._run import BlockInfo, Event, OptimizerInfo, load_run
from truestep.monitor._schema import FILE
from truestep.monitor.sinks import Store


def test_a_step_is_read_as_it_was_written(store: Store) -> None:
    written = a_step(3, mark=0.25)
    written.took.ww[:] = torch.tensor([math.nan, math.inf, 1e-300])
    store.step(written)
    with store.reader() as run:
        (read,) = run.steps
    for name in ("optimizer", "index", "time", "loss", "samples", "skipped", "names"):
        assert getattr(read, name) == getattr(written, name)
    for part in ("asked", "took"):
        for field in fields(getattr(written, part)):
            one, other = (getattr(getattr(step, part), field.name) for step in (read, written))
            assert one.dtype == torch.float64
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_what_was_not_given_reads_as_nan(store: Store) -> None:
    store.step(a_step(0))
    store.scalar((store.optimizer("SGD", "SGD", "[]"), 0, 1.5, None, None, True))
    with store.reader() as run:
        (step,) = run.steps
        assert run.losses()[1].isnan().tolist() == [True]
    assert (step.time, step.skipped) == (1.5, True)
    assert math.isnan(step.loss)
    assert math.isnan(step.samples)


def test_steps_of_several_optimizers_come_in_order_of_step_then_optimizer(store: Store) -> None:
    for name, steps in (("Muon", (0, 2, 4)), ("AdamW", (4, 1, 2))):
        for index in steps:
            store.step(a_step(index, optimizer=name, names=(f"{name}.weight",)))
    with store.reader() as run:
        found = [(step.index, step.optimizer, step.names) for step in run.steps]
        assert len(run.steps) == 6
    order = [(0, "Muon"), (1, "AdamW"), (2, "Muon"), (2, "AdamW"), (4, "Muon"), (4, "AdamW")]
    assert found == [(index, name, (f"{name}.weight",)) for index, name in order]


def test_facts_blocks_optimizers_and_events_are_what_the_run_said(store: Store) -> None:
    sgd = store.optimizer("first", "SGD", '[{"lr": 0.1}]')
    store.block("fc.weight", (3, 2), 6, "Linear.weight", "unit", sgd)
    store.step(a_step(0, optimizer="first", names=("fc.weight", "fc.weight[1]")))
    store.event("tag", "epoch=1", sgd, 5)
    store.event("note", "text")
    with store.reader() as run:
        assert run.meta["id"] == "abc"
        assert run.optimizers == (OptimizerInfo(1, "first", "SGD", '[{"lr": 0.1}]'),)
        assert run.blocks == (
            BlockInfo(1, "fc.weight", (3, 2), 6, "Linear.weight", "unit", 1),
            BlockInfo(2, "fc.weight[1]", None, None, None, None, 1),
        )
        times = [event.time for event in run.events]
        assert run.events == (Event(times[0], "tag", "epoch=1", 1, 5), Event(times[1], "note", "text", None, None))


def test_losses_are_those_of_every_step_of_one_optimizer(store: Store) -> None:
    one, other = (store.optimizer(name, name, "[]") for name in ("one", "other"))
    for index in range(4):
        store.scalar((one, index, 0.0, index / 2, 1, False))
    store.scalar((other, 9, 0.0, 7.0, 1, False))
    with store.reader() as run:
        for steps, losses in (run.losses(), run.losses("one")):
            assert (steps.tolist(), losses.tolist()) == ([0, 1, 2, 3], [0.0, 0.5, 1.0, 1.5])
            assert (steps.dtype, losses.dtype) == (torch.int64, torch.float64)
        assert [column.tolist() for column in run.losses("other")] == [[9], [7.0]]
        with pytest.raises(ValueError, match=r"`optimizer` 'third' is not in .*\['one', 'other'\]"):
            run.losses("third")


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_run_without_steps_reads_as_empty(tmp_path: Path, in_memory: bool) -> None:
    store = Store(None if in_memory else tmp_path, meta={"id": "abc"})
    store.close()
    with store.reader() as run:
        assert (list(run.steps), len(run.steps), run.optimizers, run.blocks, run.events) == ([], 0, (), (), ())
        assert [column.tolist() for column in run.losses()] == [[], []]
        assert run.meta["status"] == "finished"


def test_the_file_the_directory_and_their_names_open_the_same_run(run_dir: Path) -> None:
    for place in (run_dir, str(run_dir), run_dir / FILE, str(run_dir / FILE)):
        with load_run(place) as run:
            assert [step.index for step in run.steps] == list(range(8))


def test_a_run_that_goes_on_is_seen_as_it_grows(store: Store, tmp_path: Path) -> None:
    write(store, range(3))
    store.flush()
    with load_run(tmp_path) as run:
        steps = run.steps
        reading = iter(steps)
        assert next(reading).index == 0
        write(store, range(3, 5))
        store.step(a_step(5, names=("late.weight",)))
        store.flush()
        assert [step.index for step in reading] == [1, 2]  # those that were there when it began
        assert len(steps) == 6
        assert list(steps)[-1].names == ("late.weight",)


def test_steps_taken_back_while_they_are_read_are_passed_over_or_read_as_they_are_now(run_dir: Path) -> None:
    with load_run(run_dir) as run:
        reading = iter(run.steps)
        assert next(reading).index == 0
        store = Store(run_dir, meta={})
        store.resume("abc", {"SGD": 4})
        store.step(a_step(5, names=("late.weight",)))
        store.flush()
        names = {step.index: step.names for step in reading}
        store.close()
    assert names == {1: NAMES, 2: NAMES, 3: NAMES, 5: ("late.weight",)}


def test_a_reader_cannot_write(run_dir: Path) -> None:
    with load_run(run_dir) as run:
        for sql in ("DELETE FROM step", "CREATE TABLE mine (x)", "PRAGMA user_version = 3", "DROP TABLE run"):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                run.query(sql)
        with pytest.raises(sqlite3.OperationalError, match="no such column: absent"):
            run.query("SELECT absent FROM step")
        assert run.query("SELECT loss FROM step WHERE step = ?", (3,)) == [(0.5,)]
        assert [file.name for file in run_dir.iterdir()] == [FILE]
        store = Store(run_dir, meta={})
        store.resume("abc", {"SGD": 4})
        assert len(run.losses()[0]) == 4  # no transaction of the refused statements is left to read the past from
        store.close()
