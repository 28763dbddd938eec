"""The demo: a small CNN on real digits, trained twice, weight decay off and on, everything else equal."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from truestep.lab._digits import Digits, digits
from truestep.monitor import watch

LR: Final = 0.1
MOMENTUM: Final = 0.9
WEIGHT_DECAY: Final = 5e-3
BATCH_SIZE: Final = 32
STEPS: Final = 1600
EVALUATE: Final = 20  # steps between evaluations in the last quarter: at a constant lr one alone is mostly noise
SIDE: Final = 8  # pixels
# The BatchNorm after each convolution divides by its output's scale, unit by unit.
SYMMETRIES: Final = {"conv1.weight": "unit", "conv2.weight": "unit", "conv3.weight": "unit"}


Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """One run of the demo: its record, and the share of test digits that it got right over its last quarter.

    `accuracy` is that in evaluation mode, with BatchNorm's running statistics; `accuracy_batch` with the statistics of
    the test digits themselves, as in training. Weights that turn fast leave the running ones behind.
    """

    title: str
    run_dir: Path
    weight_decay: float
    accuracy: float
    accuracy_batch: float
    cost: float


def demo(directory: Path, *, steps: int = STEPS, seed: int = 0, progress: Progress | None = None) -> list[Trained]:
    """Train with and without weight decay and record both runs.

    Args:
        directory: Gets one run directory for each.
        steps: Steps of each run.
        seed: Of the weights and of the data's order, the same for both.
        progress: Told the title of a run and the steps done in it.
    """
    data = digits()
    runs = {"weight decay 0": 0.0, f"weight decay {WEIGHT_DECAY:g}": WEIGHT_DECAY}
    return [train(data, title, directory, decay, steps, seed, progress) for title, decay in runs.items()]


def train(
    data: Digits,
    title: str,
    directory: Path,
    weight_decay: float,
    steps: int,
    seed: int,
    progress: Progress | None,
) -> Trained:
    """One watched run; the loop is an ordinary one."""
    torch.manual_seed(seed)
    model, generator = cnn(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=weight_decay)
    accuracies: list[tuple[float, float]] = []
    run_dir = directory / title.replace(" ", "-")
    with watch(model, optimizer, run_dir, every=2, symmetries=SYMMETRIES, console=None, title=title) as run:
        for step in range(steps):
            picked = torch.randint(len(data.train_y), (BATCH_SIZE,), generator=generator)
            images = shifted(data.train_x[picked].view(-1, SIDE, SIDE), generator)
            loss = cross_entropy(model(images[:, None]), data.train_y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss, samples=BATCH_SIZE)
            if step == steps - 1 or (4 * step >= 3 * steps and (steps - step) % EVALUATE == 1):
                accuracies.append(_accuracies(model, data.test_x, data.test_y))
            if progress:
                progress(title, step + 1)
        cost = run.cost
    running, batch = (mean(kind) for kind in zip(*accuracies, strict=True))
    return Trained(title, run_dir, weight_decay, running, batch, cost)


def cnn() -> nn.Module:
    """Three convolutions, each with BatchNorm, and a linear head: 15 k parameters."""
    layers: dict[str, nn.Module] = {}
    for number, (channels, width) in enumerate(((1, 16), (16, 32), (32, 32)), start=1):
        layers[f"conv{number}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(width)
        layers[f"relu{number}"] = nn.ReLU()
        if number == 2:
            layers["pool"] = nn.MaxPool2d(2)
    layers |= {"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": nn.Linear(32, 10)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def shifted(images: Float[Tensor, "batch 8 8"], generator: torch.Generator) -> Float[Tensor, "batch 8 8"]:
    """Each image moved by -1, 0 or 1 pixel both ways, so that the loss does not vanish."""
    count = len(images)
    framed = pad(images, (1, 1, 1, 1))  # [batch, 10, 10]
    down, right = torch.randint(3, (2, count, 1, 1), generator=generator)  # each [batch, 1, 1]
    pixels = torch.arange(SIDE)
    return framed[torch.arange(count)[:, None, None], pixels[:, None] + down, pixels + right]


@torch.no_grad()
def _accuracies(model: nn.Module, x: Float[Tensor, "test 64"], y: Int[Tensor, " test"]) -> tuple[float, float]:
    """Share of right answers in evaluation mode and with the batch's own statistics; the model stays as it was."""
    images = x.view(-1, 1, SIDE, SIDE)
    running, batch = ((deepcopy(model).train(mode)(images).argmax(1) == y).double().mean() for mode in (False, True))
    return float(running), float(batch)
