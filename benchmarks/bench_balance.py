"""What balancing several losses costs a training step, over the plain sum of the losses: one thread, side by side.

    python -m benchmarks.bench_balance [--seconds 40] [--tasks 2 10 40]

Writes benchmarks/results/balance.json. The model is a trunk of 256-4x512 ReLU units (0.9 M parameters), batch 128, with
2, 10 and 40 linear heads of 100 outputs, Adam. Every arm takes ten steps in turn, so that an update on every tenth
step is paid for; peers take one, since some need seconds. "plain again" is a second copy of the plain loop: its
distance from 1 is the noise. Memory is what a step holds at its peak beyond the plain step's, by torch's allocator, in
copies of the features.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.balance_peers import PEERS
from benchmarks.models import Tasks, tasks
from benchmarks.pairs import Ratio, compare
from truestep.multitask import Balancer, GradNorm, UnitNorm

RESULTS = Path(__file__).parent / "results" / "balance.json"
STEPS = 10
BARS = {  # of the issue: at most this many plain steps
    "GradNorm at z, every step": {2: 1.10, 10: 1.20, 40: 1.70},
    "GradNorm at z, every 10th": {2: 1.02, 10: 1.03, 40: 1.08},
    "GradNorm at a weight, every 10th": {2: 1.10, 10: 1.10, 40: 1.10},
}
Step = Callable[[], None]


def plain(job: Tasks) -> Step:
    def step() -> None:
        job.optimizer.zero_grad()
        z = job.trunk(job.x)  # a loop's variable, as the views are one
        sum(job.losses(z), start=torch.zeros(())).backward()
        job.optimizer.step()

    return step


def balanced(job: Tasks, balancer: Balancer) -> Step:
    def step() -> None:
        job.optimizer.zero_grad()
        views = balancer.split(job.trunk(job.x))
        losses = job.losses([views[task] for task in balancer.tasks])
        balancer.total(dict(zip(balancer.tasks, losses, strict=True))).backward()
        job.optimizer.step()

    return step


def ours(number: int) -> dict[str, Step]:
    names = [f"task {i}" for i in range(number)]

    def arm(rule: Any, *, at_weight: bool = False, **settings: Any) -> Step:
        job = tasks(number)
        return balanced(job, Balancer(rule, names, layer=job.last if at_weight else None, **settings))

    return {
        "GradNorm at z, every step": arm(GradNorm(0.5)),
        "GradNorm at z, every 10th": arm(GradNorm(0.5), update_every=10),
        "GradNorm at a weight, every step": arm(GradNorm(0.5), at_weight=True),
        "GradNorm at a weight, every 10th": arm(GradNorm(0.5), at_weight=True, update_every=10),
        "UnitNorm, sum to T (no gradients)": arm(UnitNorm(), normalize="sum"),
    }


def times(step: Step, number: int) -> Step:
    def turn() -> None:
        for _ in range(number):
            step()

    return turn


def peak(step: Step, job: Tasks) -> int:
    """Most bytes that a step holds at once beyond those before it; the gradients of the step before are gone."""
    step()
    job.optimizer.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def told(name: str, ratio: Ratio, number: int) -> dict[str, float]:
    times_plain = {key: round(1 + getattr(ratio, key) / 100, 3) for key in ("cpu", "low", "high", "wall")}
    bar = BARS.get(name, {}).get(number)
    verdict = "" if bar is None else f"  bar {bar:.2f} {'met' if times_plain['cpu'] <= bar else 'MISSED'}"
    print(f"  {name:36} {times_plain['cpu']:7.3f} [{times_plain['low']:.3f}, {times_plain['high']:.3f}]{verdict}")
    return times_plain | ({} if bar is None else {"bar": bar})


def timed(arms: Mapping[str, Step], number: int, seconds: float) -> dict[str, dict[str, float]]:
    for step in arms.values():
        step()
    return {name: told(name, ratio, number) for name, ratio in compare(arms, width=1.0, seconds=seconds).items()}


def memory(number: int) -> dict[str, float]:
    """In copies of the features, 128 x 512 float32."""
    names, copy = [f"task {i}" for i in range(number)], 128 * 512 * 4
    job = tasks(number)
    base, found = peak(plain(job), job), {}
    for name, every in (("update", 1), ("other step", 10**6)):
        job, balancer = tasks(number), Balancer(GradNorm(0.5), names, update_every=every)
        found[name] = round((peak(balanced(job, balancer), job) - base) / copy, 2)
    print(f"  extra memory, copies of z: {found} (bar {number + 1} on updates)")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40, help="for each of the two comparisons of a T")
    parser.add_argument("--tasks", type=int, nargs="*", default=[2, 10, 40])
    options = parser.parse_args()
    torch.set_num_threads(1)
    written: dict[str, Any] = {"torch": torch.__version__, "threads": 1}
    for number in options.tasks:
        print(f"T = {number}, times the plain sum")
        two = {"plain": plain(tasks(number)), "plain again": plain(tasks(number))}
        mine = {name: times(step, STEPS) for name, step in (two | ours(number)).items()}
        found = timed(mine, number, options.seconds)
        peers = {name: make(tasks(number)) for name, make in PEERS.items()}
        found |= {f"{k} (1 step)" if k in two else k: v for k, v in timed(two | peers, number, options.seconds).items()}
        written[f"T = {number}"] = {"times_plain": found, "extra_copies_of_z": memory(number)}
    RESULTS.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
