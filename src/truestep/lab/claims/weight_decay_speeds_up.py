"""Weight decay speeds up optimization on the training set.

The lecture's reason: without decay the norm grows and the effective lr falls; decay keeps it up. Then decay helps where
the effective lr has become too small, and a larger lr would help as well. So we look at one lr after the other, and at
each arm's own best lr. The head feeds no normaliser and has a scale: decay there is an ordinary penalty, so it is
switched on and off by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import exp
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import Digits, digits
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PINK, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._normalized import (
    BATCH,
    STEPS,
    Weights,
    mean_losses,
    normalized_relu,
    outputs,
    random_copies,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LRS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
MARKS: Final = (300, 1000, STEPS)  # steps after which the training loss is taken
WORST: Final = 10.0  # nats; what a larger loss, infinite or nan, counts as
LEAST: Final = 1e-12  # nats; float32 has no smaller ones

FELT: Final = 1.1  # effective lr with over without decay, at the lr below, from which the decay has acted
FELT_AT: Final = 3  # index of lr 0.3


class Arm(NamedTuple):
    """Weight decay of the hidden layers, and of the head."""

    label: str
    color: str
    hidden: float
    head: float


ARMS: Final = {
    "none": Arm("no decay", GREY, 0.0, 0.0),
    "all": Arm("5e-4, all layers", BLUE, 5e-4, 5e-4),
    "hidden": Arm("5e-4, hidden layers", ORANGE, 5e-4, 0.0),
    "strong": Arm("5e-3, hidden layers", PINK, 5e-3, 0.0),
}
DECAYS: Final = ("all", "hidden", "strong")


def step(weights: Weights, gradients: Sequence[Tensor], lrs: Tensor, decays: Sequence[Tensor]) -> None:
    """SGD with coupled decay, lr and decay of each copy and layer, in place."""
    with torch.no_grad():
        for w, g, decay in zip(weights, gradients, decays, strict=True):
            w.sub_(lrs[:, None, None] * (g + decay[:, None, None] * w))


def losses(weights: Weights, data: Digits) -> Tensor:
    """Training loss of each copy, the norm layers on all images at once; in [LEAST, WORST]."""
    with torch.no_grad():
        loss = mean_losses(outputs(weights, data.train_x, normalized_relu), data.train_y).double()
    return loss.nan_to_num(nan=WORST, posinf=WORST).clamp(LEAST, WORST)


def train(data: Digits, generator: torch.Generator, marks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Training loss [marks, arms, lrs], and ‖w‖² of a hidden unit, the geometric mean, at the end [arms, lrs]."""
    device, shape = data.train_x.device, (len(ARMS), len(LRS))
    lrs = torch.tensor(LRS * len(ARMS), device=device)
    weights = random_copies(len(lrs), generator, str(device))
    hidden, head = (
        torch.tensor(each, device=device).repeat_interleave(len(LRS))
        for each in ([arm.hidden for arm in ARMS.values()], [arm.head for arm in ARMS.values()])
    )
    found: list[Tensor] = []
    for k in range(1, marks[-1] + 1):
        index = torch.randint(len(data.train_y), (BATCH,), generator=generator)
        loss = mean_losses(outputs(weights, data.train_x[index], normalized_relu), data.train_y[index])
        step(weights, torch.autograd.grad(loss.sum(), weights), lrs, [hidden, hidden, head])
        if k in marks:
            found.append(losses(weights, data).view(shape))
    squares = torch.cat([w.detach().double().square().sum(2) for w in weights[:-1]], dim=1)  # [copies, units]
    return torch.stack(found), squares.log().mean(1).exp().view(shape)


def run(seed: int, device: str, *, marks: Sequence[int] = MARKS) -> Measurement:
    """log(loss with decay / loss without) at each lr and at each arm's best; training losses as curves over the lr."""
    loss, squares = train(digits(device), torch.Generator().manual_seed(seed), marks)
    names, out = list(ARMS), Measurement()
    for j, mark in enumerate(marks):
        for i, name in enumerate(names):
            ratio = (loss[j, i] / loss[j, 0]).log()
            best = (loss[j, i].min() / loss[j, 0].min()).log()
            out |= {f"{name}_loss_{mark}": loss[j, i].tolist()}
            if i:
                out |= {f"{name}_tuned_{mark}": best.item(), f"{name}_ratio_{mark}": ratio.tolist()}
    felt = squares[0, FELT_AT] / squares[names.index("hidden"), FELT_AT]
    return out | {"felt": felt.item(), "best_lr": LRS[int(loss[-1, 0].argmin())]}


def verdict(tuned: Interval, ratios: dict[str, list[Interval]], felt: Interval) -> Verdict:
    """`tuned` and `ratios` are logarithms of loss with over without decay; below 0 the decay sped up."""
    if felt.low < FELT:
        return Verdict.INCONCLUSIVE
    if tuned.high < 0:
        return Verdict.SUPPORTED
    lower = {name: [ratio.high < 0 for ratio in row] for name, row in ratios.items()}
    if any(a and b for row in lower.values() for a, b in pairwise(row)):
        return Verdict.PARTLY
    return Verdict.INCONCLUSIVE if any(any(row) for row in lower.values()) else Verdict.REFUTED


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Training losses at the end of the budget."""
    ratios = {
        name: [t_interval(column) for column in zip(*curves(measurements, f"{name}_ratio_{STEPS}"), strict=True)]
        for name in DECAYS
    }
    tuned = {name: t_interval(scalars(measurements, f"{name}_tuned_{STEPS}")) for name in DECAYS}
    felt = t_interval(scalars(measurements, "felt"))
    faster = {
        name: ", ".join(f"{lr:g}" for lr, ratio in zip(LRS, row, strict=True) if ratio.high < 0) or "none"
        for name, row in ratios.items()
    }
    gain, name, lr = min((r.mean, name, lr) for name, row in ratios.items() for r, lr in zip(row, LRS, strict=True))
    best = scalars(measurements, "best_lr")
    slower = ", ".join(f"{lr:g}" for lr, ratio in zip(LRS, ratios["all"], strict=True) if ratio.low > 0) or "none"
    reason = (
        f"log(training loss with / without decay 5e-4) after {STEPS} steps, each at its best lr: {tuned['all']} with"
        f" decay of all layers, {tuned['hidden']} of the hidden ones ({tuned['strong']} at 5e-3). At one and the same"
        f" lr decay of all layers is ahead at lr {faster['all']} and behind at {slower}; of the hidden layers ahead at"
        f" {faster['hidden']} (5e-3: {faster['strong']}), the loss {exp(gain):.2f} times at best ({ARMS[name].label},"
        f" lr {lr:g}; without decay the best lr is {min(best):g} to {max(best):g}). At lr {LRS[FELT_AT]} decay kept the"
        f" effective lr {felt.mean:.2f} times as high."
    )
    intervals = {f"{name}_tuned": interval for name, interval in tuned.items()} | {"felt": felt}
    for name, row in ratios.items():
        intervals |= {f"{name}_{lr:g}": ratio for lr, ratio in zip(LRS, row, strict=True)}
    return Judgement(verdict(tuned["all"], ratios, felt), reason, intervals)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Training loss against the lr, early and at the end; a thin line per seed, a colour per decay."""
    marks = (MARKS[0], MARKS[-1])
    figure, axes = panels(len(marks))
    for axis, mark in zip(axes, marks, strict=True):
        for name, arm in ARMS.items():
            for i, values in enumerate(curves(measurements, f"{name}_loss_{mark}")):
                axis.plot(LRS, values, color=arm.color, lw=0.8, alpha=0.6, label=arm.label if i == 0 else None)
        axis.set(xscale="log", yscale="log", xlabel="lr", ylabel="training loss", title=f"after {mark} steps")
        axis.grid(color=GREEN, alpha=0.1, lw=0.5)
    axes[0].legend()
    return figure


CLAIM = Claim(
    name="weight_decay_speeds_up",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence="Why does weight decay speed up optimization on the training set?",
    threshold=(
        f"BN MLP with a trained head, SGD, {len(LRS)} lrs {LRS[0]} to {LRS[-1]:g}; q = log of the training loss after"
        f" {STEPS} steps with over that without decay. SUPPORTED if the 95 % interval of q lies below 0 for decay 5e-4"
        f" of all layers, each arm at its best lr; PARTLY if not, but at two neighbouring lrs for one of three decays"
        f" (5e-4 of all, of the hidden layers, 5e-3 of the hidden ones), lr the same with and without; REFUTED if at no"
        f" lr; INCONCLUSIVE if at single lrs only, or if decay does not keep the effective lr {FELT} times as high at"
        f" lr {LRS[FELT_AT]}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
