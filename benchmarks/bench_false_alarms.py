"""How often two copies of one optimizer are called different, from a pool of real runs: 3 to 7 % is meant at 95 %.

    python -m benchmarks.bench_false_alarms [--pool 200] [--resamples 2000] [--steps 100]

Writes benchmarks/results/false_alarms.json. Adam at lr .001 on the digits MLP; run i of each copy has the weights of
seed i, the data come in orders of their own. Each resample draws 8 seeds of the pool, none twice, and asks of them:
Student's interval of the paired differences of the mean log loss (does it exclude 0?), the percentile bootstrap of the
same, and the speed test (does the multiplier's interval exclude 1, and what is the verdict?). For the first two, the
copies of each seed change places by the toss of a coin: the pool's own mean difference is not 0.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Adam

from truestep.compare._ceiling import loss_ceiling
from truestep.compare.problems import digits_mlp
from truestep.compare.speed._judge import Runs, judge
from truestep.compare.speed._run import ORDERS
from truestep.compare.statistics import resamples, student_bounds
from truestep.compare.training import Replica, train

RESULTS = Path(__file__).parent / "results" / "false_alarms.json"
MULTIPLIERS = tuple(10 ** (k / 4) for k in range(-2, 3))
SEEDS, STACK = 8, 100


def pool(size: int, steps: int) -> Runs:
    """All runs, of `size` seeds."""
    problem, adam = digits_mlp(), partial(Adam, lr=1e-3)

    def losses(order: int, multiplier: float = 1.0) -> Tensor:
        replicas = [Replica(seed, order + seed, multiplier) for seed in range(size)]
        stacks = (replicas[start : start + STACK] for start in range(0, size, STACK))
        return torch.cat([train(problem, adam, stack, steps=steps, points=10).losses for stack in stacks])

    marks = train(problem, adam, [Replica(0, 0)], steps=steps, points=10).steps
    start = torch.tensor([problem.probe_loss(problem.build(seed)) for seed in range(size)], dtype=torch.float64)
    of_a = torch.stack([losses(0, m) for m in MULTIPLIERS])
    args = (0.0, loss_ceiling(problem), marks, MULTIPLIERS, start, of_a, losses(ORDERS), losses(2 * ORDERS))
    return Runs(problem.name, "Adam", "Adam", 1e-3, 1e-3, *args)


def drawn(runs: Runs, seeds: Tensor) -> Runs:
    parts = (runs.start[seeds], runs.losses_a[:, seeds], runs.losses_b[seeds], runs.losses_b_again[seeds])
    args = (runs.largest_lag, runs.ceiling, runs.steps, runs.multipliers, *parts)
    return Runs(runs.problem, runs.a, runs.b, runs.lr_a, runs.lr_b, *args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    runs = pool(args.pool, args.steps)
    draws = torch.stack([torch.randperm(args.pool)[:SEEDS] for _ in range(args.resamples)])
    coins = torch.randint(2, draws.shape).double() * 2 - 1
    differences = coins * (runs.losses_b.log() - runs.losses_b_again.log()).mean(1)[draws]
    _, low, high = student_bounds(differences)
    ends = (differences @ resamples(SEEDS).T).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=1)
    tests = [judge(each, each.fit(), 0.05) for each in (drawn(runs, seeds) for seeds in draws)]
    outside = [not test.interval[0] <= 1 <= test.interval[1] for test in tests]
    found = {
        "student": float(((low > 0) | (high < 0)).double().mean()),
        "percentile_bootstrap": float(((ends[0] > 0) | (ends[1] < 0)).double().mean()),
        "speed_test_multiplier": sum(outside) / len(outside),
        "speed_test_verdicts": dict(Counter(test.verdict for test in tests)),
    }
    print(json.dumps(found, indent=1))
    settings = {"pool": args.pool, "resamples": args.resamples, "steps": args.steps, "seeds": SEEDS}
    RESULTS.write_text(json.dumps({"torch": torch.__version__} | settings | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
