"""What a balancer did stands in the record as its report said it, at recorded steps and nowhere else."""

import copy
import sqlite3
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.monitor.balancing import TASKS, Fake, Tasks, as_version_1, plain, told
from tests.monitor.loops import Loop, assert_bit_equal, hooks, unwatched
from tests.monitor.test_watch_failures import one_warning
from tests.monitor.test_watch_resume import loaded, saved
from tests.monitor.written import a_balance, a_step, column, rolled_back_and_written_again, rows, write

from truestep import watch
from truestep.monitor import load_run
from truestep.monitor._balance import Balance, BalanceProbe
from truestep.monitor._schema import FILE, VERSION
from truestep.monitor.sinks import Store
from truestep.multitask import Balancer, Constant, UnitNorm

NAMES = ("weights", "norms", "ratios", "losses", "step_factor", "trunk_factor", "updates")


def said(report: Any) -> list[Any]:
    return [plain(getattr(report, name)) for name in NAMES]


# Checking the type of a protocol reads its properties on Python 3.11: where reports are counted, types are not checked.
uncounted = pytest.mark.usefixtures("unchecked")


def unit_norm() -> Balancer:
    return Balancer(UnitNorm(), TASKS, update_every=2, gram=True)


# --- what is recorded


@uncounted
@pytest.mark.parametrize("in_memory", [False, True])
def test_the_report_is_read_at_recorded_steps_only_and_stands_in_the_record_as_it_was(
    in_memory: bool, tmp_path: Path
) -> None:
    loop, fake = Loop(), Fake()
    with loop.watch(None if in_memory else tmp_path, every=3, balancer=fake) as run:
        for steps in (range(4), range(4, 8)):
            loop.train(run, steps.start, steps.stop)
            with run._reader() as record:
                assert [balance.index for balance in record.balance] == list(range(0, steps.stop, 3))
    assert len(fake.read) == 3
    with run._reader() as record:
        assert len(record.balance) == 3
        assert told(record.balance) == [(3 * i, said(report)) for i, report in enumerate(fake.read)]
        assert {balance.optimizer for balance in record.balance} == {"SGD"}


@pytest.mark.parametrize("every", [1, 3])
def test_the_rows_of_a_real_balancer_are_its_reports_and_the_run_is_bit_equal(every: int, tmp_path: Path) -> None:
    alone, watched = Tasks(unit_norm), Tasks(unit_norm)
    alone.train(None, 0, 9)
    with watched.watch(tmp_path, every=every) as run:
        watched.train(run, 0, 9)
    assert_bit_equal(watched.state(), alone.state())
    with load_run(tmp_path) as record:
        found = told(record.balance)
        assert record.meta["balancer"] == "UnitNorm(), normalize='budget', update_every=2, accumulate=1"
    assert found == [(step, said(alone.reports[step])) for step in range(0, 9, every)]
    weights = [list(balance[1][0].values()) for balance in found]
    assert weights[0][0] != pytest.approx(weights[0][1], rel=0.1)  # there was something to record
    assert found[-1][1][4] == pytest.approx(1.0, rel=1e-12)
    assert 0.0 < found[-1][1][5] < inf


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_recorded_weights_are_those_that_the_losses_of_the_step_carried(accumulate: int) -> None:
    loop, carried = Tasks(lambda: Balancer(UnitNorm(), TASKS, accumulate=accumulate)), []
    with loop.watch() as run:
        for step in range(4):
            loop.optimizer.zero_grad()
            for micro in range(accumulate):
                total = loop.total(accumulate * step + micro)
                total.backward()
            carried.append((total.item(), {task: loss.item() for task, loss in loop.losses.items()}))
            loop.optimizer.step()
        balances = [*run._reader().balance]
    for balance, (value, losses) in zip(balances, carried, strict=True):
        assert sum(balance.weights[task] * losses[task] for task in TASKS) == pytest.approx(value, rel=1e-6)


def test_the_steps_of_the_first_optimizer_alone_have_rows(tmp_path: Path) -> None:
    loop, fake = Loop(), Fake()
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (loop.model.conv, loop.model.fc))
    with watch(loop.model, {"a": first, "b": second}, tmp_path, every=1, console=None, balancer=fake):
        for step in range(4):
            loop.backward(step)
            second.step()
            if step % 2:
                first.step()
    with load_run(tmp_path) as record:
        assert [(balance.optimizer, balance.index) for balance in record.balance] == [("a", 0), ("a", 1)]
        assert len(record.steps) == 6


@uncounted
def test_a_skipped_step_has_no_row() -> None:
    fake = Fake()
    probe = BalanceProbe(fake, "SGD", lambda *_: None)
    assert probe.read(replace(a_step(0), skipped=True)) is None
    assert fake.read == []
    assert probe.read(a_step(1)) is not None


def test_what_is_not_finite_or_not_told_is_read_back_as_it_was(store: Store) -> None:
    weights = {"a": inf, "b": 0.0, "c": 1e-300}
    balance = Balance("SGD", 3, weights, dict.fromkeys(weights, nan), weights, weights, nan, inf, 2)
    store.balance(balance)
    with store.reader() as run:
        assert told(run.balance) == told([balance])


@uncounted
def test_a_task_that_a_report_says_little_of_has_nan_for_the_rest() -> None:
    fake = Fake(lambda _: fake.read[-1].norms.pop("parity"))
    balance = BalanceProbe(fake, "SGD", lambda *_: None).read(a_step(0))
    assert balance is not None
    assert plain(balance.norms) == {"class": 10.0, "parity": None}


def test_steps_taken_back_while_they_are_read_are_passed_over(run_dir: Path) -> None:
    with load_run(run_dir) as run:
        reading = iter(run.balance)
        assert next(reading) == a_balance(0)
        store = Store(run_dir, meta={})
        store.resume("abc", {"SGD": 4})
        store.close()
        assert list(reading) == [a_balance(index) for index in range(1, 4)]


# --- what fails


@uncounted
@pytest.mark.parametrize("errors", [False, True], ids=["warned", "warnings are errors"])
@pytest.mark.parametrize("how", ["raises", "is no report"])
def test_a_balancer_that_cannot_be_read_is_told_of_once_and_watching_goes_on(
    how: str, errors: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(number: int) -> None:
        if number == 2:
            if how == "raises":
                raise ArithmeticError("boom")
            fake.read[-1].weights["class"] = "many"

    fake, loop = Fake(fails), Loop()
    with one_warning(capsys, errors=errors) as warned, loop.watch(tmp_path, balancer=fake) as run:
        loop.train(run, 0, 6)
    assert_bit_equal(loop.state(), unwatched(6))
    why = "ArithmeticError: boom" if how == "raises" else "ValueError: could not convert string to float: 'many'"
    assert warned[0].startswith(f"truestep: the balancer's report cannot be read ({why})")
    assert len(fake.read) == 3
    with load_run(tmp_path) as record:
        assert [balance.index for balance in record.balance] == [0, 1]
        assert len(record.steps) == 6
        assert record.meta["status"] == "finished"
        assert [(event.kind, event.step) for event in record.events] == [("unbalanced", 2)]


@uncounted
def test_what_is_no_balancer_is_refused_before_a_hook_is_set() -> None:
    loop = Loop()
    with pytest.raises(
        ValueError, match=r"`balancer` must be a truestep\.multitask\.Balancer, found Constant, without"
    ):
        loop.watch(balancer=Constant())
    assert hooks(loop.optimizer) == 0


# --- the record's size, resume, and records of version 1


def test_rows_of_tasks_are_thinned_with_the_steps(tmp_path: Path) -> None:
    store, tasks = Store(tmp_path, meta={}, max_bytes=2.0**18), tuple(f"task {i}" for i in range(100))
    for index in range(120):
        if index % store.period == 0:
            store.balance(a_balance(index, tasks=tasks))
            store.step(a_step(index))
        if index % 10 == 0:
            store.flush()
            assert store.bytes <= 2**18
    store.balance(a_balance(121))  # comes late, and is dropped by the period in force
    store.close()
    kept = list(range(0, 120, store.period))
    assert store.period > 1
    for table, each in (("block_step", 3), ("balance_step", 1), ("task_step", 100)):
        counts = f"SELECT step, count(*) FROM {table} GROUP BY step"
        assert rows(tmp_path / FILE, counts) == [(index, each) for index in kept]
    with load_run(tmp_path) as run:
        assert list(run.balance)[-1] == a_balance(kept[-1], tasks=tasks)


def test_a_resumed_run_holds_the_rows_of_one_that_was_never_interrupted(tmp_path: Path) -> None:
    first = Tasks(unit_norm)
    run = first.watch(tmp_path, every=2)
    first.train(run, 0, 5)
    checkpoint, balancer = saved(first, run), copy.deepcopy(first.balancer.state_dict())
    first.train(run, 5, 8)
    run.close("failed")
    second = Tasks(unit_norm)
    with second.watch(tmp_path, every=2) as run:
        run.load_state_dict(loaded(checkpoint, second))
        second.balancer.load_state_dict(balancer)
        second.train(run, 5, 12)
    whole = Tasks(unit_norm)
    whole.train(None, 0, 12)
    with load_run(tmp_path) as record:
        assert told(record.balance) == [(step, said(whole.reports[step])) for step in range(0, 12, 2)]


def test_tasks_of_a_batch_that_was_rolled_back_are_written_as_if_for_the_first_time(store: Store) -> None:
    store.flush()
    store.balance(a_balance(0))
    rolled_back_and_written_again(store)
    with store.reader() as run:
        assert list(run.balance) == [a_balance(0)]


def test_a_record_of_version_1_is_read_as_one_that_balanced_nothing(run_dir: Path) -> None:
    as_version_1(run_dir / FILE)
    with load_run(run_dir) as run:
        assert len(run.balance) == 0
        assert list(run.balance) == []
        assert len(run.steps) == 8


def test_a_resumed_record_of_version_1_gets_the_tables_and_keeps_its_rows(run_dir: Path) -> None:
    as_version_1(run_dir / FILE)
    with load_run(run_dir) as reader:  # one that looks on meanwhile
        store = Store(run_dir, meta={})
        store.resume("abc", {"SGD": 6})
        write(store, range(6, 8), mark=2.0)
        store.flush()
        assert list(reader.balance) == [a_balance(6), a_balance(7)]
        store.close()
        assert reader.losses()[1].tolist() == [0.5] * 6 + [2.0] * 2
    assert column(run_dir / FILE, "PRAGMA user_version") == [VERSION]
    assert column(run_dir / FILE, "PRAGMA integrity_check") == ["ok"]


def test_another_run_s_record_of_version_1_is_left_as_it_is(run_dir: Path) -> None:
    as_version_1(run_dir / FILE)
    store = Store(run_dir, meta={})
    with pytest.warns(RuntimeWarning, match="holds run abc, not another"):
        store.resume("another", {"SGD": 6})
    store.close()
    (older,) = run_dir.glob("run-*.db")
    assert column(older, "PRAGMA user_version") == [1]
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        rows(older, "SELECT * FROM task")


def test_a_watch_without_balancer_writes_no_row_of_tasks(tmp_path: Path) -> None:
    loop = Loop()
    with loop.watch(tmp_path) as run:
        loop.train(run, 0, 2)
    with load_run(tmp_path) as record:
        assert len(record.balance) == 0
        assert "balancer" not in record.meta
