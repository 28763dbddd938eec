"""A record that reaches its size keeps every second step."""

from pathlib import Path

import pytest
from tests.monitor.written import a_step, column

from truestep.monitor._schema import FILE
from truestep.monitor.sinks import Store, _file
from truestep.monitor.sinks._thin import thin_scalars


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
