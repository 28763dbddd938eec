"""The speed test on pairs of optimizers whose answer is known, or asked for, on the digits: how long, and what it says.

    python -m benchmarks.bench_speed_test [--workers 2] [--pairs adam-x10 momentum]

Writes benchmarks/results/speed_test.json. "standardized" are the digits with every pixel at mean 0 and variance 1; on
the others SGD at lr .003 has hardly left the start after 300 steps. Without `--workers`, in this process, one thread.

Momentum .9 is 10 times the lr only as lr goes to 0. At lr .003 it is 9.64 on the raw digits, 9.77 on the standardized;
at lr .001, 900 steps and 4 seeds 9.86 and 9.90: what is missing shrinks in proportion to lr. Multipliers four times as
dense, twice the points, or a lag that builds up as momentum does move none of them by more than .03.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD, Adam, RMSprop

from truestep.compare import AdaBelief, Lion, Problem, SignSGD
from truestep.compare.problems import digits_mlp
from truestep.compare.speed import SpeedTest, speed_test
from truestep.compare.sweep import Sweep

RESULTS = Path(__file__).parent / "results" / "speed_test.json"
MOMENTUM = partial(SGD, lr=0.03, momentum=0.9)


PAIRS: dict[str, tuple[Problem, Any, Any]] = {
    "adam-x10": (digits_mlp(), partial(Adam, lr=3e-4), partial(Adam, lr=3e-3)),
    "adam-x8.108": (digits_mlp(), partial(Adam, lr=3.7e-4), partial(Adam, lr=3e-3)),
    "sgd-x4.878": (digits_mlp(), partial(SGD, lr=0.0041), partial(SGD, lr=0.02)),
    "adam-adam": (digits_mlp(), partial(Adam, lr=1e-3), partial(Adam, lr=1e-3)),
    "momentum": (digits_mlp(standardize=True), partial(SGD, lr=0.003), partial(SGD, lr=0.003, momentum=0.9)),
    "momentum-raw": (digits_mlp(), partial(SGD, lr=0.003), partial(SGD, lr=0.003, momentum=0.9)),
    "momentum-fast": (digits_mlp(standardize=True), partial(SGD, lr=0.03), MOMENTUM),
    "adam-adabelief": (digits_mlp(), partial(Adam, lr=1e-3), partial(AdaBelief, lr=1e-3)),
    "adam-adabelief-standardized": (digits_mlp(standardize=True), partial(Adam, lr=1e-3), partial(AdaBelief, lr=1e-3)),
    "adam-momentum": (digits_mlp(), partial(Adam, lr=1e-3), MOMENTUM),
    "adam-momentum-standardized": (digits_mlp(standardize=True), partial(Adam, lr=1e-3), MOMENTUM),
    "adam-rmsprop": (digits_mlp(), partial(Adam, lr=1e-3), partial(RMSprop, lr=1e-3)),
    "adam-lion": (digits_mlp(), partial(Adam, lr=1e-3), partial(Lion, lr=1e-3)),
    "adam-signsgd": (digits_mlp(), partial(Adam, lr=1e-3), partial(SignSGD, lr=1e-3)),
}
FIELDS = ("problem", "a", "b", "verdict", "sentence", "multiplier", "interval", "lag", "largest_lag", "residual")
FIELDS += ("residual_interval", "residual_at_one", "floor", "threshold", "explained", "early", "late")


def row(test: SpeedTest, wall: float, cpu: float) -> dict[str, Any]:
    path = test.path and {name: getattr(test.path, name) for name in test.path.__slots__}
    return {name: getattr(test, name) for name in FIELDS} | {"path": path, "wall_seconds": wall, "cpu_seconds": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text())["pairs"] if RESULTS.exists() else {}
    with Sweep(workers=args.workers) as sweep:
        for name in args.pairs:
            wall, cpu = time.perf_counter(), time.process_time()
            test = speed_test(*PAIRS[name], sweep=sweep)
            found = row(test, time.perf_counter() - wall, time.process_time() - cpu)
            rows[name] = found | {"workers": args.workers}
            print(f"{name:28} {found['wall_seconds']:6.1f} s  {test.verdict}: {test.sentence}", flush=True)
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "seeds": 8, "pairs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
