"""Processes of our own, and this one."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from truestep.compare.sweep import Sweep, _pool
from truestep.compare.sweep._pool import Here, LocalPool, cores


def test_a_pool_that_is_killed_does_not_wait_for_its_work() -> None:
    pool = LocalPool(1)
    asleep = pool.submit(time.sleep, 1000)
    while not asleep.running():
        time.sleep(0.01)
    pool.kill()
    assert isinstance(asleep.exception(), BrokenProcessPool)
    pool.kill()  # of what is gone already
    pool.shutdown()


def test_work_here_is_done_when_it_is_given() -> None:
    done: list[int] = []
    assert Here().submit(done.append, 3).done()
    assert done == [3]


def test_there_is_a_core() -> None:
    assert cores() >= 1


def test_a_sweep_in_a_worker_that_imports_its_script_ends_that_worker_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with Sweep(workers=0) as sweep, pytest.raises(SystemExit, match=r"^truestep: .*: put what the script does under"):
        sweep.run([])


class Stillborn(Executor):
    """A pool whose workers die as they start."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def submit(self, *args: Any) -> Any:
        raise BrokenProcessPool("died")

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        pass


@pytest.fixture
def stillborn(monkeypatch: pytest.MonkeyPatch) -> LocalPool:
    monkeypatch.setattr(_pool, "ProcessPoolExecutor", Stillborn)
    return LocalPool(1)


def test_workers_that_die_as_they_start_are_not_started_for_ever(stillborn: LocalPool) -> None:
    with pytest.raises(
        RuntimeError, match="the sweep's workers die as they start: put what the script does under `if __name__"
    ):
        stillborn.rebuild()
