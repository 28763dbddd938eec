"""What finding the symmetries of a model costs, counted in backward passes on the same small batches, and in seconds.

    python -m benchmarks.bench_symmetries [--threads 2]

Writes benchmarks/results/symmetries.json. K tensors may cost K + 8 passes: rows of S, probing again, and those at
the model's own weights. The GPT (9.7 M parameters, 148 tensors) must take less
than 60 s on two cores. "seconds in passes" divides by the time of one bare backward pass, measured before and after.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.models import GPT, ResNet
from truestep.invariance import find_symmetries

RESULTS = Path(__file__).parent / "results" / "symmetries.json"
BATCHES, BAR = 8, 60.0
Batch = tuple[Tensor, Tensor]


def mlp() -> tuple[nn.Module, list[Batch]]:
    layers = [nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 10)), [(torch.randn(8, 64), torch.randint(10, (8,))) for _ in range(8)]


def resnet() -> tuple[nn.Module, list[Batch]]:
    return ResNet(8), [(torch.randn(8, 3, 16, 16), torch.randint(10, (8,))) for _ in range(BATCHES)]


def gpt() -> tuple[nn.Module, list[Batch]]:
    return GPT(), [(torch.randint(512, (2, 16)), torch.randint(512, (2, 16))) for _ in range(BATCHES)]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return cross_entropy(model(x).flatten(0, -2), y.flatten())


def one_pass(model: nn.Module, batches: list[Batch]) -> float:
    """Seconds of a backward pass, the median over two rounds of the batches."""
    taken = list[float]()
    for batch in 2 * batches:
        start = time.perf_counter()
        torch.autograd.grad(loss_fn(model, batch), list(model.parameters()), allow_unused=True)
        taken.append(time.perf_counter() - start)
    return median(taken)


def measured(build: Callable[[], tuple[nn.Module, list[Batch]]]) -> dict[str, float | int | bool]:
    torch.manual_seed(0)
    model, batches = build()
    before = one_pass(model, batches)
    start, cpu = time.perf_counter(), time.process_time()
    found = find_symmetries(model, batches, loss_fn)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    passes = (before + one_pass(model, batches)) / 2
    tensors = len(list(model.parameters()))
    rows, again, own = found.passes
    return {
        "tensors": tensors,
        "parameters": sum(p.numel() for p in model.parameters()),
        "alone": len(found.alone),
        "joint": len(found.joint),
        "passes": sum(found.passes),
        "at most": tensors + 8,
        "rows of S": rows,
        "re-probing": again,
        "own weights": own,
        "seconds": round(seconds, 2),
        "cpu seconds": round(cpu, 2),
        "seconds of one pass": round(passes, 5),
        "seconds in passes": round(seconds / passes, 1),
    }


def _met(bar: bool) -> str:
    return "met" if bar else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(threads := parser.parse_args().threads)
    told = {build.__name__: measured(build) for build in (mlp, resnet, gpt)}
    for name, numbers in told.items():
        print(name, numbers)
        print(
            f"  passes: {numbers['passes']}, bar {numbers['at most']} {_met(numbers['passes'] <= numbers['at most'])}"
        )
    print(f"GPT: {told['gpt']['seconds']} s, bar {BAR} {_met(told['gpt']['seconds'] < BAR)}")
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "threads": threads, **told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
