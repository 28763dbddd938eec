"""Eight optimizers on the digits, ranked under every protocol: what the command costs, and what it says.

    python -m benchmarks.bench_ranking [--seeds 8] [--steps 300] [--workers 2] [--store FILE]

Writes benchmarks/results/ranking.json. Every optimizer has its own default lr; SGD with momentum that of SGD.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from truestep.compare import AdaBelief, Lion, SignSGD
from truestep.compare.problems import digits_mlp
from truestep.compare.rank import Protocol, Ranking, ranking
from truestep.compare.sweep import Sweep

RESULTS = Path(__file__).parent / "results" / "ranking.json"
BAR = 600.0  # seconds, of the issue
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD),
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "adam": partial(torch.optim.Adam),
    "rmsprop": partial(torch.optim.RMSprop),
    "adabelief": partial(AdaBelief),
    "adabelief 1e-8": partial(AdaBelief, eps=1e-8),
    "lion": partial(Lion),
    "signsgd": partial(SignSGD),
}


def told(protocol: Protocol) -> dict[str, Any]:
    return {
        name: {
            "rank": protocol.rank[name],
            protocol.knob: rounded(protocol.best[name]),
            "loss": [rounded(x) for x in (interval.mean, interval.low, interval.high)],
            "values tried": len(protocol.grid[name]),
            "first with probability": rounded(float(protocol.probabilities[i, 0])),
            **(
                {"best of k": {k: rounded(x) for k, x in protocol.budget[name].items()}}
                if protocol.budget[name]
                else {}
            ),
        }
        for i, (name, interval) in enumerate(protocol.loss.items())
    }


def rounded(x: float) -> float:
    return float(f"{x:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", type=Path, default=None)
    given = parser.parse_args()
    start = time.perf_counter()
    with Sweep(given.store, workers=given.workers) as sweep:
        result: Ranking = ranking(digits_mlp(), OPTIMIZERS, seeds=given.seeds, steps=given.steps, sweep=sweep)
        busy = sum(trial.seconds for trial in sweep.results())
    seconds = time.perf_counter() - start
    print(result)
    print(f"{seconds:.0f} s on {given.workers} processes, {busy:.0f} s in trials; bar {BAR:.0f} s")
    written = {
        "torch": torch.__version__,
        "problem": result.problem,
        "seeds": result.seeds,
        "steps": result.steps,
        "workers": given.workers,
        "seconds": round(seconds, 1),
        "seconds in trials": round(busy, 1),
        "bar": BAR,
        "sentence": result.sentence,
        "warnings": result.warnings,
        "protocols": {protocol.name: told(protocol) for protocol in result.protocols},
        "tau": [[rounded(x) for x in row] for row in result.tau.tolist()],
        "tau of half and end": {name: rounded(x) for name, x in result.half_tau.items()},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
