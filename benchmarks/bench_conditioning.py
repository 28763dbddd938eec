"""What the gradient transforms cost a training step, over plain SGD: one thread, side by side.

    python -m benchmarks.bench_conditioning [--seconds 30] [--batches 32 128 512]

Writes benchmarks/results/conditioning.json. An MLP of four 512-wide ReLU layers and a head of ten, cross-entropy, SGD.
"plain again" is a second copy of the plain loop: its distance from 1 is the noise. K-FAC is curvlinops' (type-2
factors, made anew at every step).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.pairs import compare
from truestep.conditioning import GradientCentering, QuasiDiagonal, Standardizing
from truestep.integrations.curvlinops import kfac_direction

RESULTS = Path(__file__).parent / "results" / "conditioning.json"
WIDTH, DEPTH = 512, 4
BARS = {"GradientCentering": 1.3, "QuasiDiagonal, empirical": 2.0}  # of the issue
Step = Callable[[], None]
Transform = Callable[[nn.Module, torch.optim.Optimizer], object]
TRANSFORMS: dict[str, Transform] = {
    "plain": lambda *_: None,
    "plain again": lambda *_: None,
    "GradientCentering": GradientCentering,
    "Standardizing, diagonal": lambda model, optimizer: Standardizing(model, optimizer, matrix="diagonal"),
    "Standardizing, full": Standardizing,
    "QuasiDiagonal, empirical": QuasiDiagonal,
    "QuasiDiagonal, empirical, ema .9": lambda model, optimizer: QuasiDiagonal(model, optimizer, ema=0.9),
}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 10))


def step_of(transform: Transform, x: Tensor, y: Tensor) -> Step:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    kept = transform(model, optimizer)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        assert kept is kept  # held by the step: its hooks live as long

    return step


def kfac(x: Tensor, y: Tensor) -> Step:
    model, loss = mlp(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for name, direction in kfac_direction(model, [(x, y)], loss, gradients, damping=1e-2).items():
            model.get_parameter(name).grad = direction
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each batch size")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128, 512])
    given = parser.parse_args()
    torch.set_num_threads(1)
    told = dict[str, dict[str, dict[str, float]]]()
    for batch in given.batches:
        x, y = torch.randn(batch, WIDTH), torch.randint(10, (batch,))
        arms = {name: step_of(transform, x, y) for name, transform in TRANSFORMS.items()} | {"K-FAC": kfac(x, y)}
        for arm in arms.values():
            arm()
        found = compare(arms, width=2.0, seconds=given.seconds)
        told[str(batch)] = {
            name: {
                "steps": round(1 + r.cpu / 100, 3),
                "low": round(1 + r.low / 100, 3),
                "high": round(1 + r.high / 100, 3),
            }
            for name, r in found.items()
        }
        for name, numbers in told[str(batch)].items():
            bar = f"  bar {BARS[name]}: {'met' if numbers['steps'] <= BARS[name] else 'MISSED'}" if name in BARS else ""
            print(f"batch {batch:4}  {name:33} {numbers['steps']:6.2f} [{numbers['low']}, {numbers['high']}]{bar}")
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "threads": 1, "width": WIDTH, **told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
