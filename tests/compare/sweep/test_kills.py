"""A sweep of 200 trials that loses a worker, then its driver, then is interrupted, and goes on."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import forked
from tests.compare.sweep.trials import SECONDS, TRIALS, draws

from truestep.compare.sweep import StoredTrial, Sweep

PATIENCE = 60.0
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are looked up in /proc")


@dataclass(frozen=True)
class Story:
    after_worker: int  # trials in the store when the worker was killed
    after_driver: int
    after_interrupt: int
    left: list[list[int]]  # processes that outlived each driver
    interrupted: subprocess.CompletedProcess[str]
    results: list[dict[str, Any]]
    stored: list[StoredTrial]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    path = tmp_path_factory.mktemp("kills") / "store.db"
    with ThreadPoolExecutor(1) as thread:
        driver, ended = start(thread, path, workers=2)
        wait_until(lambda: stored(path) >= 10)
        os.kill(workers(driver)[0], signal.SIGKILL)
        after_worker = stored(path)
        wait_until(lambda: stored(path) >= after_worker + 20)
        first = family(driver)
        os.kill(driver, signal.SIGKILL)
        ended.result(PATIENCE)
        left, after_driver = [left_of(first)], stored(path)

        driver, ended = start(thread, path, workers=1)
        wait_until(lambda: stored(path) >= after_driver + 10)
        second = family(driver)
        os.killpg(driver, signal.SIGINT)  # as the terminal sends it: to all of them
        interrupted = ended.result(PATIENCE)
        left.append(left_of(second))
        after_interrupt = stored(path)
    with Sweep(path, workers=0) as sweep:
        results = sweep.run(draws())
        return Story(after_worker, after_driver, after_interrupt, left, interrupted, results, sweep.results())


def start(thread: ThreadPoolExecutor, path: Path, workers: int) -> tuple[int, Future[Any]]:
    """The driver's process, the head of a group of its own, and how it ends."""
    note = path.with_suffix(".pid")
    note.unlink(missing_ok=True)
    ended = thread.submit(forked.run, "-m", "tests.compare.sweep.trials", path, workers, note, **{SECONDS: "0.02"})
    wait_until(note.exists)
    return int(note.read_text()), ended


def stored(path: Path) -> int:
    """Trials in the store, read while the driver writes."""
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        (count,) = connection.execute("SELECT count(*) FROM trial WHERE result IS NOT NULL").fetchone()
        connection.close()
    except sqlite3.OperationalError:  # not made yet
        return 0
    return count


def family(driver: int) -> list[int]:
    """All processes that the driver has started; none of them starts others."""
    found = [Path(f"/proc/{driver}/task/{thread}/children") for thread in os.listdir(f"/proc/{driver}/task")]
    return [int(word) for path in found for word in path.read_text().split()]


def workers(driver: int) -> list[int]:
    """Those that run trials, without multiprocessing's own helper."""
    return [pid for pid in family(driver) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def left_of(family: list[int]) -> list[int]:
    """Those that do not end; one that is just starting ends when it has imported torch."""
    deadline = time.monotonic() + PATIENCE
    while (left := [pid for pid in family if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, "the sweep stands still"
        time.sleep(0.01)


def test_the_sweep_goes_on_without_the_worker_that_was_killed(story: Story) -> None:
    assert story.after_driver >= story.after_worker + 20


def test_the_driver_was_killed_and_interrupted_in_the_middle(story: Story) -> None:
    assert 10 <= story.after_worker < story.after_driver < story.after_interrupt < TRIALS


def test_no_process_outlives_its_driver(story: Story) -> None:
    assert story.left == [[], []]


def test_an_interrupted_driver_ends_by_the_interrupt_and_its_workers_say_nothing(story: Story) -> None:
    assert story.interrupted.returncode == -signal.SIGINT
    assert story.interrupted.stderr.count("Traceback") == 1
    assert story.interrupted.stderr.strip().endswith("KeyboardInterrupt")


def test_in_the_end_every_hash_stands_once(story: Story) -> None:
    assert len(story.stored) == len({trial.hash for trial in story.stored}) == TRIALS
    assert all(trial.error is None for trial in story.stored)


def test_the_results_are_those_of_a_serial_run_bit_by_bit(story: Story) -> None:
    with Sweep(workers=0) as sweep:
        assert sweep.run(draws()) == story.results
