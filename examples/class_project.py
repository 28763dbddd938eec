"""The class project of source 001: does batch norm remove outlier eigenvalues, or covariate shift, and which one helps?

    python examples/class_project.py                 four activations, eleven variants, 5 seeds (minutes)
    python examples/class_project.py speed           seven optimizers on a logistic MLP, each at its best lr (minutes)
    python examples/class_project.py --quick         a look at the form of it, in seconds

Lecture 5 of Grosse's CSC 2541 (2021) sets two hypotheses beside each other, "logically independent": ICS Conditioning
(BN removes the outlier eigenvalues that uncentred activations make) and ICS Removal (BN centres and scales the
activations). Each variant changes one thing. The nets are 20-14-14-14-10 on 400 digits, whitened; the full batch, so no
noise; every variant has the same lrs, a factor √2 apart, and its row is that of the best.

Left out: batch centring of the logits, nets that are trained before their curvature is looked at, and minibatches.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import product
from math import exp, log
from multiprocessing import get_context
from statistics import fmean, stdev
from time import perf_counter
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.conditioning import GradientCentering, QuasiDiagonal, Standardizing
from truestep.integrations.curvlinops import KFac
from truestep.lab import Measurement
from truestep.lab._covariate_shift import REACHED, STEPS
from truestep.lab._digits import CLASSES, PIXELS, Digits, digits
from truestep.lab._shift_at_start import largest_at_start, shift_at_start
from truestep.lab._steps import mean_steps, measured
from truestep.lab._variants import VARIANTS
from truestep.lab.claims import ics_conditioning, ics_removal

ACTIVATIONS = ("relu", "logistic", "tanh", "tanh + 1")
LRS = tuple(2.0**k for k in range(-8, 7))  # of `speed`, for all optimizers
WIDTHS, BATCH, EPOCHS = (32, 32, 32), 100, 20
EMA, DAMPING = 0.9, 1e-3  # of K-FAC; the transforms have their own default


def measure(activation: str, variant: str, seed: int, steps: int) -> Measurement:
    """All about one variant and seed."""
    torch.set_num_threads(1)
    arm = f"{activation}, {variant}"
    found = shift_at_start(activation, variant, seed)
    out = measured(activation, [variant], seed, "cpu", steps)
    out |= {f"{arm}: nu": found.nu, f"{arm}: share": found.hidden, f"{arm}: head": found.head}
    return out | {f"{arm}: largest": largest_at_start(activation, variant, seed)}


def measure_all(activations: Sequence[str], seeds: int, steps: int, workers: int) -> list[Measurement]:
    """By seed."""
    found: list[Measurement] = [{} for _ in range(seeds)]
    work = list(product(activations, VARIANTS, range(seeds)))
    bar = partial(track, description="training", total=len(work), console=Console(stderr=True), transient=True)
    if workers == 1:
        for activation, variant, seed in bar(work):
            found[seed] |= measure(activation, variant, seed, steps)
        return found
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        seed_of = {pool.submit(measure, *each, steps): each[-1] for each in work}
        for future in bar(as_completed(seed_of)):
            found[seed_of[future]] |= future.result()
    return found


def spread(values: Sequence[Any], digits: int = 2) -> str:
    """Mean and standard deviation over seeds."""
    return f"{fmean(values):.{digits}f} ± {stdev(values) if len(values) > 1 else 0:.{digits}f}"


def table(found: Sequence[Measurement], activation: str) -> str:
    """A row for each variant."""
    columns = ("nu", "share", "head", "largest")
    head = ("nu of hidden layers", "ICS share, hidden", "ICS share, head", "GGN λ1", f"steps to {REACHED:g} (seeds)")
    lines = [f"| {activation} | {' | '.join(head)} | lr |", "|---" * (len(head) + 2) + "|"]
    for variant in VARIANTS:
        arm = f"{activation}, {variant}"
        cells = [spread([m[f"{arm}: {name}"] for m in found], 1 if name == "nu" else 2) for name in columns]
        steps = sorted(int(m[arm]) for m in found)  # type: ignore[arg-type]
        lrs = sorted({m[f"{arm}: lr"] for m in found} - {0.0})  # type: ignore[type-var]
        cells.append(f"{mean_steps(found, arm)} ({' '.join(map(str, steps))})")
        lines.append(f"| {variant} | {' | '.join(cells)} | {' '.join(f'{lr:.2g}' for lr in lrs)} |")
    return "\n".join(lines)


def verdict(found: Sequence[Measurement]) -> str:
    """What the lab's two claims say of these measurements."""
    conditioning, removal = ics_conditioning.judge(found), ics_removal.judge(found)
    return (
        f"Conditioning. {conditioning.reason}\n\nRemoval. {removal.reason}\n\n"
        f"Verdict: ICS Conditioning hypothesis {conditioning.verdict}, ICS Removal hypothesis {removal.verdict}."
    )


def project(seeds: int, workers: int, quick: bool, console: Console) -> None:
    """Tables and verdict."""
    activations = ACTIVATIONS[::2] if quick else ACTIVATIONS
    found = measure_all(activations, seeds, 3 if quick else STEPS, workers)
    for activation in activations:
        console.print(table(found, activation), "", sep="\n", markup=False)
    console.print(
        "quick: nothing to judge, 4 means that it was not reached in 3 steps" if quick else verdict(found), markup=False
    )


class Ended(NamedTuple):
    """A training: losses of all training images after each epoch in nats, test accuracy, seconds a step."""

    losses: list[float]
    accuracy: float
    seconds: float


def with_transform(kind: Any, model: nn.Module, lr: float, **settings: Any) -> tuple[torch.optim.Optimizer, Any]:
    """SGD along the direction of a transform."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    return optimizer, kind(model, optimizer, ema=EMA, **settings)


def plain(kind: Any, model: nn.Module, lr: float, **settings: Any) -> tuple[torch.optim.Optimizer, None]:
    """An optimizer of torch."""
    return kind(model.parameters(), lr, **settings), None


METHODS: dict[str, Any] = {
    "SGD": partial(plain, torch.optim.SGD),
    "momentum 0.9": partial(plain, torch.optim.SGD, momentum=0.9),
    "Adam": partial(plain, torch.optim.Adam),
    "GradientCentering": partial(with_transform, GradientCentering),
    "Standardizing, diagonal": partial(with_transform, Standardizing, matrix="diagonal"),
    "Standardizing": partial(with_transform, Standardizing),
    "QuasiDiagonal": partial(with_transform, QuasiDiagonal, fisher="sampled"),
    "K-FAC (curvlinops)": partial(plain, torch.optim.SGD),
}


def logistic_mlp() -> nn.Sequential:
    """As torch draws it, for the digits."""
    modules: list[nn.Module] = []
    for fan_in, out in zip((PIXELS, *WIDTHS), (*WIDTHS, CLASSES), strict=True):
        modules += [nn.Linear(fan_in, out), nn.Sigmoid()]
        nn.init.normal_(modules[-2].weight, std=fan_in**-0.5)  # type: ignore[arg-type]
    return nn.Sequential(*modules[:-1])


def precondition(model: nn.Module, x: Tensor, y: Tensor, previous: KFac | None, seed: int) -> KFac:
    """K-FAC's direction in the place of the gradients."""
    share = 0.0 if previous is None else EMA
    kfac = KFac(model, [(x, y)], nn.CrossEntropyLoss(), fisher="mc", seed=seed, previous=previous, ema=share)
    named = dict(model.named_parameters())
    for name, direction in kfac.solve({k: p.grad for k, p in named.items() if p.grad is not None}, DAMPING).items():
        named[name].grad = direction
    return kfac


def train(method: str, lr: float, seed: int, data: Digits, epochs: int = EPOCHS) -> Ended:
    """Minibatches of the logistic MLP."""
    torch.manual_seed(seed)
    model = logistic_mlp()
    optimizer, transform = METHODS[method](model, lr)
    losses: list[float] = []
    kfac: KFac | None = None
    seconds, steps = 0.0, 0
    for _ in range(epochs):
        begin = perf_counter()
        for index in torch.randperm(len(data.train_y)).split(BATCH):
            x, y = data.train_x[index], data.train_y[index]
            logits = model(x)
            if isinstance(transform, QuasiDiagonal):
                transform.observe(logits)
            optimizer.zero_grad()
            cross_entropy(logits, y).backward()
            if method.startswith("K-FAC"):
                kfac = precondition(model, x, y, kfac, steps)
            optimizer.step()
            steps += 1
        seconds += perf_counter() - begin
        with torch.no_grad():
            losses.append(cross_entropy(model(data.train_x), data.train_y).item())
        if not losses[-1] < 1e3:  # has diverged
            losses += [torch.inf] * (epochs - len(losses))
            break
    with torch.no_grad():
        right = model(data.test_x).argmax(1) == data.test_y
    found = [loss if loss < 1e3 else torch.inf for loss in losses]
    return Ended(found, right.double().mean().item(), seconds / steps)


def speed(seeds: int, quick: bool, console: Console) -> None:
    """The lr of each method is chosen by the loss at the end on two seeds of their own, and the others are shown."""
    data, lrs, epochs, tuning = (digits(), LRS[4:5], 1, [0]) if quick else (digits(), LRS, EPOCHS, [0, 1])
    bar = Console(stderr=True)
    tuned: dict[str, tuple[float, float]] = {}
    for method, lr in track(list(product(METHODS, lrs)), "tuning", console=bar, transient=True):
        loss = exp(fmean(log(train(method, lr, seed, data, epochs).losses[-1]) for seed in tuning))
        tuned[method] = min(tuned.get(method, (torch.inf, lr)), (loss, lr))
    rows = {
        method: [train(method, tuned[method][1], seed, data, epochs) for seed in range(2, 2 + seeds)]
        for method in track(METHODS, "training", console=bar, transient=True)
    }
    base = fmean(each.seconds for each in rows["SGD"])
    shown = [k - 1 for k in (1, 5, EPOCHS) if k <= epochs]
    head = [f"loss after epoch {k + 1}" for k in shown]
    lines = [f"| | lr | {' | '.join(head)} | test accuracy | time a step / SGD's |", "|---" * (len(head) + 4) + "|"]
    for method, ended in rows.items():
        lr = tuned[method][1]
        edge = " (end of the grid)" if lr in (lrs[0], lrs[-1]) else ""
        cells = [geometric([each.losses[k] for each in ended]) for k in shown]
        cost = fmean(each.seconds for each in ended) / base
        cells += [spread([each.accuracy for each in ended], 3), f"{cost:.1f}"]
        lines.append(f"| {method} | {lr:g}{edge} | {' | '.join(cells)} |")
    console.print("\n".join(lines), markup=False)
    console.print(ranking({name: [each.losses[-1] for each in ended] for name, ended in rows.items()}))


def geometric(values: Sequence[float]) -> str:
    """Geometric mean, and the least and the largest of the seeds."""
    return f"{exp(fmean(map(log, values))):.2g} ({min(values):.2g} to {max(values):.2g})"


def ranking(losses: dict[str, list[float]]) -> str:
    """Methods by their loss at the end, and by how much each is below SGD's."""
    means = {method: fmean(map(log, each)) for method, each in losses.items()}
    order = sorted(means, key=means.__getitem__)
    told = ", ".join(f"{method} {exp(means['SGD'] - means[method]):.1f}x" for method in order)
    return f"\nTraining loss at the end, below SGD's by a factor: {told}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, and print."""
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("what", nargs="?", choices=("project", "speed"), default="project")
    it.add_argument("--seeds", type=int, default=5, help="at least 2")
    it.add_argument("--workers", type=int, default=2, help="processes of the project")
    it.add_argument("--quick", action="store_true", help="two seeds, few steps, one process: the form only")
    asked = it.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=200, soft_wrap=True)
    seeds = 2 if asked.quick else asked.seeds
    if asked.what == "speed":
        speed(seeds, asked.quick, console)
    else:
        project(seeds, 1 if asked.quick else asked.workers, asked.quick, console)


if __name__ == "__main__":
    main()
