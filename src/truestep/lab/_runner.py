"""Runs claims x seeds as trials on any executor; what is finished is on disk and never run twice."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from truestep.lab._claim import Claim, Measurement
from truestep.lab._sources import fingerprint


@dataclass(frozen=True, slots=True)
class Trial:
    """One claim under one seed on one device."""

    claim: Claim
    seed: int
    device: str = "cpu"

    def path(self, work_dir: Path) -> Path:
        """Where its measurement lies; another claim's source, torch version or device is another file."""
        key = f"{self.device.replace(':', '-')}-{self.seed:03d}-{fingerprint(self.claim.run)}"
        return work_dir / self.claim.name / f"{key}.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a trial gave: its numbers, its wall time in seconds, the threads torch had; or why it failed."""

    measurement: Measurement
    seconds: float
    threads: int
    error: str = ""


def run_trials(
    trials: Sequence[Trial],
    work_dir: Path,
    executor: Executor,
    *,
    fresh: bool = False,
    on_done: Callable[[Trial, Measured], None] = lambda _trial, _measured: None,
) -> list[tuple[Trial, Measured]]:
    """Run what is missing and write each measurement as it finishes; a failed trial stops no other.

    Args:
        trials: What is wanted.
        work_dir: Holds the finished measurements, one file each.
        executor: Any `concurrent.futures` executor; this process alone writes.
        fresh: Run all again, also what is finished.
        on_done: Called after each trial, also for those found on disk.

    Returns:
        Every trial with its result, in the order of `trials`.
    """
    stored = {i: None if fresh else _read(trial.path(work_dir)) for i, trial in enumerate(trials)}
    done = {i: measured for i, measured in stored.items() if measured is not None}
    for i, measured in done.items():
        on_done(trials[i], measured)
    futures = {executor.submit(measure, trial): i for i, trial in enumerate(trials) if i not in done}
    try:
        for future in as_completed(futures):
            i, failure = futures[future], future.exception()
            done[i] = future.result() if failure is None else Measured({}, math.nan, 0, _sentence(failure))
            if not done[i].error:
                _write(trials[i].path(work_dir), done[i])
            on_done(trials[i], done[i])
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    return [(trial, done[i]) for i, trial in enumerate(trials)]


def measure(trial: Trial) -> Measured:
    """Run one trial here; an exception comes back as its sentence, since not every exception can be pickled."""
    torch.manual_seed(trial.seed)  # claims take generators; this covers what torch draws by itself
    start = time.perf_counter()
    try:
        measurement = trial.claim.run(trial.seed, trial.device)
        json.dumps(measurement, allow_nan=False)
    except Exception as error:  # noqa: BLE001 (whatever a claim does wrong is that claim's, not the run's)
        return Measured({}, time.perf_counter() - start, torch.get_num_threads(), _sentence(error))
    return Measured(measurement, time.perf_counter() - start, torch.get_num_threads())


def process_pool(workers: int, processes: int) -> ProcessPoolExecutor:
    """A pool of fresh processes, each with its share of the cores.

    Args:
        workers: How many share the cores: each gets cores / workers torch threads, at least one.
        processes: How many are started, where there are fewer trials than workers.
    """
    return ProcessPoolExecutor(
        max(1, min(workers, processes)),
        mp_context=multiprocessing.get_context("spawn"),  # a forked torch may hang in its threads
        initializer=_start_worker,
        initargs=(max(1, cores() // workers),),
    )


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback of its own


def _sentence(error: BaseException) -> str:
    """An exception in one line, with the place it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}{place}".split())


def _read(path: Path) -> Measured | None:
    """The measurement in a file; None if there is none, or none that can be read."""
    try:
        return Measured(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, measured: Measured) -> None:
    """Write in one motion: a kill leaves the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    partial.replace(path)
