"""What watching costs: watch on against off, interleaved in one process, one thread.

    python -m benchmarks.bench_watch              all models, about ten minutes
    python -m benchmarks.bench_watch gpt256       one of them: mlp, resnet, gpt256, gpt2048

Writes benchmarks/results/watch.json. Each line is a ratio to the same training unwatched, in per cent above it; "A/A"
is a second unwatched copy, so what it shows is noise.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

import truestep
from benchmarks import peers
from benchmarks.models import Job, gpt, mlp, resnet
from benchmarks.pairs import Ratio, compare

WIDTH = 0.5  # per cent: the 95 % intervals are to be narrower
RESULTS = Path(__file__).parent / "results" / "watch.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """A job; steps until "auto" has settled; steps a round at least; seconds for each of the two comparisons."""

    make: Callable[[], Job]
    settle: int
    least: int
    few: int
    seconds: float


PLANS = {
    "mlp": Plan(mlp, 20_000, 1024, 64, 40.0),
    "resnet": Plan(resnet, 150, 4, 1, 50.0),
    "gpt256": Plan(partial(gpt, 256), 150, 2, 1, 60.0),
    "gpt2048": Plan(partial(gpt, 2048), 12, 1, 1, 60.0),
}


def repeated(step: Callable[[], None], times: int, after: Callable[[], None] | None = None) -> Callable[[], None]:
    """The step over and over, and then, in a watched run, all of the record's writing."""

    def run() -> None:
        for _ in range(times):
            step()
        if after:
            after()

    return run


def same(make: Callable[[], Job]) -> Job:
    torch.manual_seed(0)
    return make()


def auto_in_rounds(plan: Plan, directory: Path) -> tuple[int, dict[str, Ratio]]:
    """The settled period, and watch(every="auto") in rounds of whole periods."""
    auto, plain, twin = same(plan.make), same(plan.make), same(plan.make)
    with truestep.watch(auto.model, auto.optimizer, directory / "auto", console=None) as watch:
        repeated(auto.step, plan.settle)()
        period = watch._cadence.period
        watch._cadence.auto = False  # between its rounds the others run: it would take the steps to be slow ones
        steps = max(plan.least, period)
        arms = {
            "plain": repeated(plain.step, steps),
            "A/A": repeated(twin.step, steps),
            "watch(every='auto'), rounds": repeated(auto.step, steps, watch.flush),
        }
        return period, compare(arms, width=WIDTH, seconds=plan.seconds)


def parts(plan: Plan, directory: Path) -> dict[str, Ratio]:
    """Steps that are recorded and steps that are not, each by itself in short rounds, beside two public ways."""
    jobs = {name: same(plan.make) for name in ("plain", "A/A", "none", "every")}
    none = truestep.watch(jobs["none"].model, jobs["none"].optimizer, directory / "none", every=1 << 30, console=None)
    every = truestep.watch(jobs["every"].model, jobs["every"].optimizer, directory / "every", every=1, console=None)
    arms = {
        "plain": repeated(jobs["plain"].step, plan.few),
        "A/A": repeated(jobs["A/A"].step, plan.few),
        "watched, not recorded": repeated(jobs["none"].step, plan.few),
        "watch(every=1)": repeated(jobs["every"].step, plan.few, every.flush),
        "peer: .item() loop": repeated(peers.item_loop(same(plan.make)), plan.few),
        "peer: foreach, float32": repeated(peers.foreach(same(plan.make)), plan.few),
    }
    with none, every:
        return compare(arms, width=WIDTH, seconds=plan.seconds)


def together(found: dict[str, Ratio], period: int) -> Ratio:
    """Overhead of "auto" from its parts: one step in `period` is recorded, the others are not."""
    idle, full = found["watched, not recorded"], found["watch(every=1)"]

    def mix(a: float, b: float) -> float:
        return a * (1 - 1 / period) + b / period

    return Ratio(
        mix(idle.cpu, full.cpu),
        mix(idle.low, full.low),
        mix(idle.high, full.high),
        mix(idle.wall, full.wall),
        idle.rounds,
    )


def bench(name: str) -> dict[str, object]:
    plan = PLANS[name]
    with tempfile.TemporaryDirectory() as directory:
        period, found = auto_in_rounds(plan, Path(directory))
        pieces = parts(plan, Path(directory))
    found |= {"A/A, short rounds": pieces.pop("A/A"), **pieces}
    found["watch(every='auto'), by its parts"] = together(pieces, period)
    print(f"{name}: recorded 1 in {period}")
    for key, value in found.items():
        print(f"  {key:34} {value}, {value.rounds} rounds", flush=True)
    return {"period": period, "overhead, per cent": {key: asdict(value) for key, value in found.items()}}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found["versions"] = {"torch": torch.__version__, "python": platform.python_version(), "threads": 1}
    for name in names or PLANS:
        found[name] = bench(name)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
