"""Covariate shift stands in the record as it was measured, where it was measured, through resume and thinning."""

from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import pytest
from tests.monitor.balancing import as_version_1, as_version_2, plain
from tests.monitor.written import a_shift, a_step, column, rolled_back_and_written_again, rows, write

from truestep.monitor import Run, load_run
from truestep.monitor._schema import FILE, OF_SHIFT, VERSION
from truestep.monitor._shift import ShiftRows
from truestep.monitor.sinks import Store


def expected(*shifts: ShiftRows) -> list[dict[str, Any]]:
    """What the record must give back, nan as None so that it compares."""
    heads = [
        {"optimizer": shift.optimizer, "step": shift.index, "train_mode": shift.train_mode, "batches": shift.batches}
        for shift in shifts
    ]
    return [plain(head | row) for head, shift in zip(heads, shifts, strict=True) for row in shift.rows]


def told(run: Run) -> list[dict[str, Any]]:
    return [plain(row) for row in run.covariate_shift()]


@pytest.mark.parametrize("in_memory", [False, True])
def test_what_was_measured_is_read_back_in_order_of_step_and_layer(in_memory: bool, tmp_path: Path) -> None:
    store = Store(None if in_memory else tmp_path, meta={})
    store.shift(a_shift(4, layers=("fc", "conv")))
    store.shift(a_shift(0, layers=("fc",)))
    store.close()
    with store.reader() as run:
        assert told(run) == expected(a_shift(0, layers=("fc",)), a_shift(4, layers=("fc", "conv")))
        assert [(type(row["n"]), type(row["features"])) for row in run.covariate_shift()] == [(int, int)] * 3


def test_what_does_not_apply_or_is_infinite_is_read_back_as_it_was(store: Store) -> None:
    numbers = dict.fromkeys(OF_SHIFT, nan) | {"outlier": inf, "nu": 1e-300}
    shift = ShiftRows("SGD", 3, True, 1, [{"layer": "", "n": 2**40, "features": 1, **numbers}])
    store.shift(shift)
    with store.reader() as run:
        assert told(run) == expected(shift)
        (row,) = run.covariate_shift()
        assert isnan(row["ics_share"])


def test_a_second_measurement_at_a_step_takes_the_place_of_the_first(store: Store) -> None:
    for layers in (("conv", "fc", "norm"), ("fc",)):
        store.shift(a_shift(2, layers=layers))
        store.flush()
    with store.reader() as run:
        assert told(run) == expected(a_shift(2, layers=("fc",)))


def test_a_run_that_measured_nothing_has_no_rows(run_dir: Path) -> None:
    with load_run(run_dir) as run:
        assert run.covariate_shift() == []


def test_layers_of_a_batch_that_was_rolled_back_are_written_as_if_for_the_first_time(store: Store) -> None:
    store.flush()
    store.shift(a_shift(0))
    rolled_back_and_written_again(store)
    with store.reader() as run:
        assert told(run) == expected(a_shift(0))


def test_rows_that_a_locked_record_did_not_take_are_put_back_in_order(store: Store) -> None:
    for index in range(2):
        store.shift(a_shift(index))
    taken = store._batch.take()
    store.shift(a_shift(2))
    assert bool(store._batch)
    store._batch.put_back(taken)
    assert [shift.index for shift in store._batch.shifts] == [0, 1, 2]


# --- resume


def test_a_resumed_run_keeps_what_was_measured_up_to_its_checkpoint_and_on_its_weights(tmp_path: Path) -> None:
    first = Store(tmp_path, meta={"id": "abc"})
    write(first, range(8))
    for index in (0, 4, 6, 8):  # 4 is measured with the weights of the checkpoint, which has taken 4 steps
        first.shift(a_shift(index))
    first.close("failed")
    second = Store(tmp_path, meta={})
    second.resume("abc", {"SGD": 4})
    second.flush()
    with second.reader() as run:
        assert told(run) == expected(a_shift(0), a_shift(4))
    second.shift(a_shift(4, layers=("again",)))
    second.close()
    with load_run(tmp_path) as run:
        assert told(run) == expected(a_shift(0), a_shift(4, layers=("again",)))


# --- the record's size


LAYERS = tuple(f"layer {i}" for i in range(60))


def test_thinning_steps_leaves_what_was_measured_at_odd_steps(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={}, max_bytes=3e5)
    names = tuple(f"layer{i}.weight" for i in range(100))
    for index in range(200):
        if index % store.period == 0:
            store.step(a_step(index, names=names))
        if index % 67 == 0:
            store.shift(a_shift(index))
        if index % 10 == 0:
            store.flush()
    store.close()
    assert store.period > 1
    with load_run(tmp_path) as run:
        assert told(run) == expected(a_shift(0), a_shift(67), a_shift(134))


def test_where_measurements_fill_the_record_every_second_is_dropped_and_the_steps_stay(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={}, max_bytes=3e5)
    for index in range(120):
        store.shift(a_shift(3 * index, layers=LAYERS))
        store.step(a_step(index))
        if index % 4 == 0:
            store.flush()
            assert store.bytes <= 3e5
    store.close()
    assert store.period == 1
    assert column(tmp_path / FILE, "SELECT DISTINCT step FROM block_step") == list(range(120))
    kept = column(tmp_path / FILE, "SELECT step FROM shift_step")
    assert 4 < len(kept) < 60
    assert kept[0] == 0
    assert rows(tmp_path / FILE, "SELECT step, count(*) FROM layer_shift GROUP BY step") == [(s, 60) for s in kept]
    with load_run(tmp_path) as run:
        assert told(run) == expected(*(a_shift(index, layers=LAYERS) for index in kept))
        assert {event.kind for event in run.events} == {"thinned"}
        assert "of the measurements of covariate shift every second was kept" in run.events[0].text


def test_a_single_measurement_is_kept_however_many_layers_it_has(tmp_path: Path) -> None:
    store = Store(tmp_path, meta={}, max_bytes=3e5)
    layers = tuple(f"layer {i}" for i in range(1200))
    store.shift(a_shift(0, layers=layers))
    for index in range(400):
        if index % store.period == 0:
            store.step(a_step(index, names=layers[:20]))
        if index % 20 == 0:
            store.flush()
    store.close()
    assert store.period > 1
    with load_run(tmp_path) as run:
        assert len(run.covariate_shift()) == len(layers)


# --- records of older versions


@pytest.mark.parametrize("older", [as_version_1, as_version_2])
def test_an_older_record_is_read_as_one_that_measured_nothing(older: Any, run_dir: Path) -> None:
    older(run_dir / FILE)
    with load_run(run_dir) as run:
        assert run.covariate_shift() == []
        assert len(run.steps) == 8


@pytest.mark.parametrize("older", [as_version_1, as_version_2])
def test_a_resumed_older_record_gets_the_tables_and_keeps_its_rows(older: Any, run_dir: Path) -> None:
    older(run_dir / FILE)
    with load_run(run_dir) as reader:  # one that looks on meanwhile
        balances = len(reader.balance)
        store = Store(run_dir, meta={})
        store.resume("abc", {"SGD": 8})
        store.shift(a_shift(8))
        store.flush()
        assert told(reader) == expected(a_shift(8))
        store.close()
        assert len(reader.balance) == balances == (0 if older is as_version_1 else 8)
        assert reader.losses()[1].tolist() == [0.5] * 8
    assert column(run_dir / FILE, "PRAGMA user_version") == [VERSION]
    assert column(run_dir / FILE, "PRAGMA integrity_check") == ["ok"]
