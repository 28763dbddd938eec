"""What watching costs: watch on against off, interleaved in one process, one thread.

    python -m benchmarks.bench_watch              all models, about fifteen minutes
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
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

import truestep
from benchmarks import peers
from benchmarks.models import Job, gpt, mlp, resnet
from benchmarks.pairs import compare

WIDTH = 0.5  # per cent: the 95 % intervals are to be narrower
RESULTS = Path(__file__).parent / "results" / "watch.json"
# Job, steps in a round at least, steps to settle "auto", seconds for "auto" and for every step.
JOBS: dict[str, tuple[Callable[[], Job], int, int, float, float]] = {
    "mlp": (mlp, 1024, 20_000, 120.0, 40.0),
    "resnet": (resnet, 4, 150, 150.0, 60.0),
    "gpt256": (partial(gpt, 256), 2, 150, 240.0, 90.0),
    "gpt2048": (partial(gpt, 2048), 1, 12, 240.0, 0.0),
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


def bench(name: str) -> dict[str, object]:
    """Overheads of one job: first "auto", in rounds of whole periods, then every step beside its peers."""
    make, least, settle, seconds, seconds_every = JOBS[name]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        auto = same(make)
        watch = stack.enter_context(truestep.watch(auto.model, auto.optimizer, directory / "auto", console=None))
        repeated(auto.step, settle)()
        period = watch._cadence.period  # a round holds whole periods, so that each holds its share of recorded steps
        steps = max(least, period)
        watch._cadence.auto = False  # between its rounds the others run: it would take the steps to be slow ones
        plain, twin = same(make), same(make)
        arms = {
            "plain": repeated(plain.step, steps),
            "A/A": repeated(twin.step, steps),
            "watch(every='auto')": repeated(auto.step, steps, watch.flush),
        }
        out = compare(arms, width=WIDTH, seconds=seconds)
        rows = {key: asdict(value) for key, value in out.items()}
        print(f"{name}: period {period}, rounds of {steps} steps")
        for key, value in out.items():
            print(f"  {key:24} {value}", flush=True)
        watch.close()
        if not seconds_every:
            return {"period": period, "steps a round": steps, "overhead, per cent": rows}
        every = same(make)
        watch = truestep.watch(every.model, every.optimizer, directory / "all", every=1, console=None)
        stack.enter_context(watch)
        few = max(least // 4, 4)
        arms = {
            "plain": repeated(plain.step, few),
            "A/A": repeated(twin.step, few),
            "watch(every=1)": repeated(every.step, few, watch.flush),
            "peer: .item() loop": repeated(peers.item_loop(same(make)), few),
            "peer: foreach, float32": repeated(peers.foreach(same(make)), few),
        }
        out = compare(arms, width=WIDTH, seconds=seconds_every)
        for key, value in out.items():
            print(f"  {key:24} {value}", flush=True)
        rows |= {f"every step, {key}": asdict(value) for key, value in out.items()}
    return {"period": period, "steps a round": steps, "overhead, per cent": rows}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found["versions"] = {"torch": torch.__version__, "python": platform.python_version(), "threads": 1}
    for name in names or JOBS:
        found[name] = bench(name)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
