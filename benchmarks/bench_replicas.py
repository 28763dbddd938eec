"""Many replicas of the digits MLP trained as one stack, against a loop over them: one thread, side by side.

    python -m benchmarks.bench_replicas [--rounds 5] [--replicas 16 100] [--device cpu]

Writes benchmarks/results/replicas.json. A run is the problem's own: 300 steps of batches of 64 with 30 evaluations on
512 images; every replica has weights, an order of the data and a multiplier of the lr of its own. The loop is timed on
16 of the replicas and counted for all, since its time is proportional to their number; "loop again", a second copy of
it, shows the noise. On the CPU, CPU time is compared, which what others run does not enter; on a GPU wall time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from truestep.compare.problems import digits_mlp
from truestep.compare.training import Curves, Grafted, Matched, Replica, train

RESULTS = Path(__file__).parent / "results" / "replicas.json"
ADAM = partial(torch.optim.Adam, lr=1e-3)
LOOPED = 16
BARS = {16: 2.5, 100: 6.0}  # of the issue, for the optimizer's own steps on the CPU
CONTROLS = {"own steps": None, "matched": Matched(0.1), "grafted": Grafted(partial(torch.optim.SGD, lr=0.03))}


def replicas(count: int) -> list[Replica]:
    return [Replica(i, 1000 + i, 1 + i / count) for i in range(count)]


def seconds(run: Callable[[], Curves], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    run()  # its losses are on the host when it ends
    return clock() - start


def measured(counts: list[int], rounds: int, device: str, names: list[str]) -> dict[str, dict[str, float]]:
    problem = digits_mlp(device=device)
    told = dict[str, dict[str, float]]()
    for name in names:
        settings = {"problem": problem, "optimizer": ADAM, "control": CONTROLS[name]}
        loop = partial(train, replicas=replicas(LOOPED), stacked=False, **settings)
        arms = {f"stack of {n}": partial(train, replicas=replicas(n), stacked=True, **settings) for n in counts}
        for run in (loop, *arms.values()):
            run(steps=5)
        ratios: dict[str, list[float]] = {arm: [] for arm in ("loop again", *arms)}
        for _ in range(rounds):
            base = seconds(loop, device) / LOOPED
            ratios["loop again"].append(base / (seconds(loop, device) / LOOPED))
            for n, (arm, run) in zip(counts, arms.items(), strict=True):
                ratios[arm].append(base * n / seconds(run, device))
        for arm, found in ratios.items():
            told[f"{name}, {arm}"] = {"times": round(median(found), 2), "low": round(min(found), 2)}
            told[f"{name}, {arm}"]["high"] = round(max(found), 2)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--replicas", type=int, nargs="+", default=[16, 100])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--controls", nargs="+", choices=[*CONTROLS], default=[*CONTROLS])
    given = parser.parse_args()
    torch.set_num_threads(1)
    told = measured(given.replicas, given.rounds, given.device, given.controls)
    for name, numbers in told.items():
        bar = next((b for n, b in BARS.items() if name == f"own steps, stack of {n}"), None)
        met = (
            ""
            if bar is None or given.device != "cpu"
            else f"  bar {bar}: {'met' if numbers['times'] >= bar else 'MISSED'}"
        )
        print(f"{name:24} {numbers['times']:6.2f} times as fast [{numbers['low']}, {numbers['high']}]{met}")
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    key = "cpu, one thread" if given.device == "cpu" else torch.cuda.get_device_name()
    new = {**old, key: {"torch": torch.__version__, "rounds": given.rounds, **told}}
    RESULTS.write_text(json.dumps(new, indent=1) + "\n")


if __name__ == "__main__":
    main()
