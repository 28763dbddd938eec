"""The driver's loop, with a pool that breaks by plan; and, slowly, with one whose workers really die."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.compare.sweep.trials import die, die_once, draw, fail

from truestep.compare.sweep import Outcome, Sweep, TrialError
from truestep.compare.sweep._drive import AHEAD, BREAKS, Drive
from truestep.compare.sweep._pool import LocalPool

ROOT = str(Path(__file__).resolve().parents[3])


@dataclass
class Breaking(LocalPool):
    """Trials end after a while, one after the other; one that kills takes all others with it, until it is rebuilt.

    Args:
        deadly: How many deaths are in a trial of that number.
        hold: Nothing ends until it was given so many.
    """

    deadly: dict[int, int]
    hold: int = 1
    workers: int = 2
    broken: bool = False
    under_way: dict[Future[Any], int] = field(default_factory=dict)
    given: list[int] = field(default_factory=list)
    victims: list[set[int]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)
    killed: bool = False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        number = pickle.loads(args[0]).args[0]
        if self.broken:
            raise BrokenProcessPool("died before")
        future: Future[Any] = Future()
        with self.lock:
            self.under_way[future] = number
            self.given.append(number)
        for _ in range(self.hold if len(self.given) == self.hold else len(self.given) > self.hold):
            threading.Timer(0.002, self.end_oldest).start()
        return future

    def end_oldest(self) -> None:
        with self.lock:
            future = next(iter(self.under_way), None)
            if future is None or future.cancelled():
                return
            number = self.under_way[future]
            if self.deadly.get(number):
                self.deadly[number] -= 1
                self.broken = True
                self.victims.append(set(self.under_way.values()))
                for other in self.under_way:
                    other.set_exception(BrokenProcessPool("died"))
                self.under_way.clear()
            else:
                del self.under_way[future]
                future.set_result(Outcome(f"{number}", None, 0))

    def rebuild(self) -> None:
        assert not self.under_way
        self.broken = False

    def kill(self) -> None:
        self.killed = True


def driven(pool: LocalPool, count: int) -> dict[str, tuple[Outcome, int]]:
    ended: dict[str, tuple[Outcome, int]] = {}

    def finish(name: str, outcome: Outcome, attempts: int) -> None:
        assert name not in ended
        ended[name] = outcome, attempts

    Drive(pool, {str(number): partial(draw, number) for number in range(count)}, finish).run()
    return ended


@pytest.mark.parametrize("deadly", [{0: 1}, {3: 2}, {11: 1}, {0: 1, 5: 2, 11: 1}])
def test_every_trial_ends_well_where_workers_die_now_and_then(deadly: dict[int, int]) -> None:
    pool = Breaking(dict(deadly))
    ended = driven(pool, 12)
    assert {name: outcome.result for name, (outcome, _) in ended.items()} == {str(n): str(n) for n in range(12)}
    assert {number: ended[str(number)][1] for number in deadly} == {n: 1 + times for n, times in deadly.items()}
    assert len(pool.victims) == sum(deadly.values())


@pytest.mark.parametrize("number", [0, 4, 11])
def test_a_trial_that_always_kills_has_failed_when_it_did_so_alone(number: int) -> None:
    pool = Breaking({number: 1000})
    ended = driven(pool, 12)
    assert [name for name, (outcome, _) in ended.items() if outcome.result is None] == [str(number)]
    outcome, attempts = ended[str(number)]
    assert (outcome.error or "").startswith("the trial's process died 3 times, the last time alone: ")
    assert attempts == len(pool.victims) == BREAKS
    assert pool.victims[-1] == {number}


def test_a_pool_that_broke_while_it_was_idle_is_rebuilt_and_nobody_is_suspected() -> None:
    pool = Breaking({}, broken=True)
    assert {attempts for _, attempts in driven(pool, 5).values()} == {1}


def test_trials_that_no_worker_had_yet_are_not_under_suspicion() -> None:
    pool = Breaking({0: 1}, hold=40)
    ended = driven(pool, 40)
    assert pool.victims == [set(range(40))]
    assert [name for name, (_, attempts) in ended.items() if attempts > 1] == ["0", "1", "2", "3", "4"]


def test_no_more_trials_are_under_way_than_a_pool_needs() -> None:
    pool = Breaking({0: 1}, hold=AHEAD * 2)
    driven(pool, 100)
    assert pool.victims == [set(range(AHEAD * pool.workers))]


def test_an_interrupt_ends_the_workers_and_hands_on_what_has_ended() -> None:
    ended: list[str] = []

    def finish(name: str, outcome: Outcome, attempts: int) -> None:
        ended.append(name)
        if len(ended) == 3:
            raise KeyboardInterrupt

    pool = Breaking({})
    with pytest.raises(KeyboardInterrupt):
        Drive(pool, {str(number): partial(draw, number) for number in range(12)}, finish).run()
    assert pool.killed
    assert len(ended) < 12


@pytest.mark.slow
def test_workers_that_their_trials_kill_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)  # workers get the driver's path
    good = [partial(die_once, 0, tmp_path / "flag"), partial(draw, 1), partial(draw, 4)]
    with Sweep(tmp_path / "s.db", workers=2) as sweep, Sweep(workers=0) as serial:
        with pytest.raises(TrialError) as told:
            sweep.run([*good, partial(fail, 2), partial(die)])
        assert sweep.run(good) == serial.run([partial(draw, number) for number in (0, 1, 4)])
    assert sorted(failure.attempts >= BREAKS for failure in told.value.failures) == [False, True]
