"""What a tally costs a training step of a GPT of 9.7 M parameters with AdamW: one thread, side by side.

python -m benchmarks.bench_tally [--seconds 60]      writes benchmarks/results/tally.json

Arms: the plain loop on torch's own mean (A), the same again (its distance from 0 is the noise), the tally, the tally
told its count in advance, `scale="ngd"`, and two peers: a loop that multiplies one gradient after the other, as
fine-tuning libraries do, and torch's `clip_grad_norm_` as a yardstick, which reads the gradients and writes them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.models import GPT
from benchmarks.pairs import compare
from truestep.loss import Tally

RESULTS = Path(__file__).parent / "results" / "tally.json"


def arms(shape: tuple[int, int]) -> tuple[dict[str, Callable[[], None]], nn.Module]:
    """One training step each, on the same model, optimizer and batch."""
    torch.manual_seed(0)
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    x, y = torch.randint(512, shape), torch.randint(512, shape)
    tallies = {"tally": Tally("token"), "known": Tally("token", total=y.numel()), "ngd": Tally("token", "ngd")}

    def losses(reduction: str) -> torch.Tensor:
        optimizer.zero_grad()
        return cross_entropy(model(x).flatten(0, -2), y.flatten(), reduction=reduction)

    def plain() -> None:
        losses("mean").backward()
        optimizer.step()

    def tallied(tally: Tally) -> Callable[[], None]:
        def step() -> None:
            tally.backward(losses("none"))
            tally.finish(model.parameters())
            optimizer.step()

        return step

    def loop() -> None:
        losses("sum").backward()
        for p in model.parameters():
            p.grad *= 1 / y.numel()
        optimizer.step()

    def clip() -> None:
        losses("mean").backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    found = {"plain": plain, "plain again": plain, **{name: tallied(tally) for name, tally in tallies.items()}}
    return {**found, "peer: one by one": loop, "peer: clip_grad_norm_": clip}, model


def finish_alone(model: nn.Module, scale: Any, rounds: int = 30) -> float:
    """Milliseconds of `finish` on gradients that are there."""
    tally, times = Tally("token", scale), []
    for _ in range(rounds):
        tally.total(torch.ones(8, requires_grad=True))
        start = time.perf_counter()
        tally.finish(model.parameters())
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def step_alone(step: Callable[[], None], rounds: int = 9) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each number of tokens")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    written: dict[str, Any] = {"torch": torch.__version__, "threads": 1}
    for shape in ((4, 64), (8, 256)):
        tokens = shape[0] * shape[1]
        steps, model = arms(shape)
        for step in steps.values():
            step()
        alone, whole = {s: finish_alone(model, s) for s in ("mean", "ngd")}, step_alone(steps["plain"])
        print(f"{tokens} tokens, step {whole:.0f} ms; finish {alone['mean']:.2f} ms, ngd {alone['ngd']:.2f} ms")
        found = compare(steps, width=0.5, seconds=seconds)
        for name, ratio in found.items():
            print(f"  {name:24} {ratio}  {ratio.rounds} rounds")
        written[f"{tokens} tokens"] = {
            "step_ms": whole,
            "finish_ms": alone,
            "per_cent_over_plain": {name: asdict(ratio) for name, ratio in found.items()},
        }
    RESULTS.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
