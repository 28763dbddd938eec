"""Processes of our own, and this one."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from truestep.compare.sweep import _pool
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
        RuntimeError, match="the sweep's workers die as they start: does the script run its sweep under"
    ):
        stillborn.rebuild()
