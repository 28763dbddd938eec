"""What a sweep adds to a trivial trial: a pool of two processes, side by side with a bare ProcessPoolExecutor.

    python -m benchmarks.bench_sweep [--trials 1000] [--rounds 7]

Writes benchmarks/results/sweep.json. All pools are started and warm. In every round each arm runs the same number of
new trials, in a random order of arms; "bare" stands twice, so that the difference of its copies shows the noise. Bar:
a sweep on a file adds at most 5 ms a trial, its content hash, pickling and commit included.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch

from truestep.compare import problems
from truestep.compare.sweep import Sweep, content_hash

RESULTS = Path(__file__).parent / "results" / "sweep.json"
BAR = 5.0  # milliseconds
NUMBERS = count()


def trivial(number: int, problem: Any) -> dict[str, Any]:
    """Thirty numbers, as a loss curve has."""
    return {"losses": [number / (1 + step) for step in range(30)], "problem": problem.name}


def fresh(trials: int) -> list[partial[dict[str, Any]]]:
    return [partial(trivial, next(NUMBERS), problems.digits_mlp()) for _ in range(trials)]


def bare(pool: ProcessPoolExecutor, trials: int) -> None:
    for future in [pool.submit(trial) for trial in fresh(trials)]:
        future.result()


def milliseconds(run: Callable[[], Any], trials: int) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start) / trials


def measured(trials: int, rounds: int, folder: str) -> dict[str, float]:
    context = get_context("spawn")
    order = random.Random(0)
    with (
        ProcessPoolExecutor(2, context) as one,
        ProcessPoolExecutor(2, context) as two,
        Sweep(Path(folder) / "sweep.db", workers=2) as file,
        Sweep(workers=2) as memory,
    ):
        arms: dict[str, Callable[[], Any]] = {
            "bare": lambda: bare(one, trials),
            "bare again": lambda: bare(two, trials),
            "sweep in memory": lambda: memory.run(fresh(trials)),
            "sweep on a file": lambda: file.run(fresh(trials)),
        }
        for run in arms.values():
            run()
        taken: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name in order.sample(list(arms), len(arms)):
                taken[name].append(milliseconds(arms[name], trials))
        again = fresh(trials)
        file.run(again)
        stored = milliseconds(lambda: file.run(again), trials)
    one_hash = milliseconds(lambda: [content_hash(trial) for trial in again], trials)
    base = taken["bare"]
    added = {name: median(a - b for a, b in zip(taken[name], base, strict=True)) for name in arms if name != "bare"}
    told = {f"{name}, ms": median(values) for name, values in taken.items()}
    told |= {f"{name} adds, ms": value for name, value in added.items()}
    return {
        name: round(value, 3) for name, value in (told | {"from the store, ms": stored, "hash, ms": one_hash}).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        told = measured(options.trials, options.rounds, folder)
    for name, value in told.items():
        print(f"{name:32} {value:8.3f}")
    print(f"bar {BAR} ms a trial:", "met" if told["sweep on a file adds, ms"] <= BAR else "MISSED")
    RESULTS.write_text(json.dumps({"torch": torch.__version__, **vars(options), **told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
