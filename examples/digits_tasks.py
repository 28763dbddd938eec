"""One net, two and four tasks on scikit-learn's digits, in units as they come: who shouts, and what a rule does.

    python examples/digits_tasks.py                        the table over 5 seeds (minutes)
    python examples/digits_tasks.py --seeds 1 --epochs 2

Two tasks: the class (cross-entropy, nats) and the ink, the sum of all grey values of 0 to 16 (squared error). Four:
also the parity (binary cross-entropy) and how far right of the middle the ink's centre is (squared error, hundredths of
a pixel). The units are those that the data have; nobody chose them to be comparable. Each method has the same lrs, and
its row is that of the lr with the best score: the mean over the tasks of the share of the trivial predictor's error
that is left.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import fmean, stdev

import torch
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from truestep.multitask import (
    AbstractRule,
    Balancer,
    Constant,
    DynamicWeightAverage,
    GradNorm,
    UncertaintyWeighting,
    UnitNorm,
)

LRS = (1e-3, 3e-3, 1e-2)
BATCH, TRAIN, WIDTH = 64, 1200, 64
KINDS = {"class": "classification", "ink": "regression", "parity": "classification", "centre": "regression"}
OUTPUTS = {"class": 10, "ink": 1, "parity": 1, "centre": 1}
PROBLEMS = {"two": ("class", "ink"), "four": ("class", "ink", "parity", "centre")}


def uncertainty(tasks: tuple[str, ...]) -> AbstractRule:
    return UncertaintyWeighting({task: KINDS[task] for task in tasks}, lr=1e-2)  # type: ignore[arg-type]


METHODS: dict[str, Callable[[tuple[str, ...]], AbstractRule]] = {
    "plain sum": lambda _: Constant(),
    "GradNorm(0)": lambda _: GradNorm(0.0),
    "GradNorm(1.5)": lambda _: GradNorm(1.5),
    "UnitNorm": lambda _: UnitNorm(),
    "UncertaintyWeighting": uncertainty,
    "DynamicWeightAverage": lambda _: DynamicWeightAverage(period=TRAIN // BATCH),
}


def data() -> tuple[Tensor, dict[str, Tensor]]:
    """Images of 64 grey values in [0, 1], and the target of each task."""
    bunch = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32)  # [n, 8, 8], 0 to 16
    label, ink = torch.as_tensor(bunch.target), images.sum((1, 2))
    centre = (images.sum(1) * torch.arange(8.0)).sum(1) / ink
    targets = {"class": label, "ink": ink, "parity": (label % 2).float(), "centre": 100 * (centre - 3.5)}
    return images.flatten(1) / 16, targets


def loss(task: str, output: Tensor, target: Tensor) -> Tensor:
    if task == "class":
        return cross_entropy(output, target)
    if task == "parity":
        return binary_cross_entropy_with_logits(output[:, 0], target)
    return mse_loss(output[:, 0], target)


def error(task: str, output: Tensor, target: Tensor) -> float:
    """Share of wrong answers; root of the mean squared error over the targets' deviation. 1 is about trivial."""
    if task == "class":
        return (output.argmax(1) != target).float().mean().item() / 0.9
    if task == "parity":
        return ((output[:, 0] > 0) != (target > 0)).float().mean().item() / 0.5
    return ((output[:, 0] - target).square().mean().sqrt() / target.std()).item()


def train(
    tasks: tuple[str, ...], rule: AbstractRule, lr: float, seed: int, epochs: int
) -> tuple[list[float], Balancer]:
    """Test errors of the tasks, and the balancer at the end."""
    torch.manual_seed(seed)
    x, targets = data()
    order = torch.randperm(len(x))
    rows, test = order[:TRAIN], order[TRAIN:]
    trunk = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
    heads = nn.ModuleDict({f"to {task}": nn.Linear(WIDTH, OUTPUTS[task]) for task in tasks})
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr)
    balancer = Balancer(rule, tasks, initial_batches=5)
    for _ in range(epochs):
        for part in rows[torch.randperm(TRAIN)].split(BATCH):
            views = balancer.split(trunk(x[part]))
            optimizer.zero_grad()
            outputs = {task: heads[f"to {task}"](views[task]) for task in tasks}
            balancer.total({task: loss(task, outputs[task], targets[task][part]) for task in tasks}).backward()
            optimizer.step()
    with torch.no_grad():
        z = trunk(x[test])
        return [error(task, heads[f"to {task}"](z), targets[task][test]) for task in tasks], balancer


def best(tasks: tuple[str, ...], method: str, seeds: int, epochs: int) -> tuple[float, list[list[float]], Balancer]:
    """The lr with the best mean error, the errors of its seeds, and the last balancer."""
    found = []
    for lr in LRS:
        runs = [train(tasks, METHODS[method](tasks), lr, seed, epochs) for seed in range(seeds)]
        errors = [errors for errors, _ in runs]
        found.append((fmean(map(fmean, errors)), lr, errors, runs[-1][1]))
    _, lr, errors, balancer = min(found, key=lambda each: each[0])
    return lr, errors, balancer


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{fmean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=160, soft_wrap=True)
    for name, tasks in PROBLEMS.items():
        console.print(
            f"\n{name} tasks: test error over that of the trivial predictor, {options.seeds} seeds (lower is better)\n"
        )
        lines = [f"| method | lr | mean | {' | '.join(tasks)} | weights at the end |", "|---" * (len(tasks) + 4) + "|"]
        for method in track(METHODS, description=name, console=Console(stderr=True), transient=True):
            lr, errors, balancer = best(tasks, method, options.seeds, options.epochs)
            columns = [spread([fmean(each) for each in errors]), *map(spread, map(list, zip(*errors, strict=True)))]
            weights = " ".join(f"{w:.2g}" for w in balancer.report.weights.values())
            lines.append(f"| {method} | {lr:g} | {' | '.join(columns)} | {weights} |")
        console.print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
