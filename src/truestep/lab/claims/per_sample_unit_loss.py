r"""Dividing each sample's loss by itself may help where a batch holds losses of different magnitudes.

The mean of :math:`l_i / l_i` has the gradient of the geometric mean: each sample weighs :math:`1 / l_i`. That takes out
any factor on the samples' losses, exactly. But it does not stop at expected magnitudes: a solved sample keeps its full
weight, a hard one fades, and a sample whose loss is exactly zero in the number format gives 0/0. Two problems, then:
the digits, and the digits with the loss of each class multiplied by a factor of its own, from 1/30 to 30. Each rule at
its best lr, with a cosine schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float
from torch import Tensor

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import CLASSES
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PINK, panels
from truestep.lab._interval import t_interval
from truestep.lab._training import (
    Problem,
    Scale,
    cosine,
    cross_entropy_each,
    digits_problem,
    finite_accuracy,
    flat_weights,
    per_sample,
    plain_mlp,
    raw,
    train,
    unit,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (64,)
EPOCHS: Final = 30
LRS: Final = (0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0)
MAGNITUDE: Final = 1.5  # decades above and below 1 of the classes' factors
FLOOR: Final = 0.1  # nats, of the rule with a floor

GAIN: Final = 0.01  # of test accuracy, what counts as help or as harm

RULES: Final[dict[str, Scale]] = {
    "raw": raw,
    "unit": unit,
    "per_sample": per_sample,
    "floored": partial(per_sample, floor=FLOOR),
}
PROBLEMS: Final = ("plain", "magnitudes")
TITLES: Final = {"plain": "digits", "magnitudes": "digits, each class's loss times 1/30 to 30"}


def weighted_entropy(output: Float[Tensor, "n classes"], target: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Cross-entropy of each sample times a factor; the target holds class and factor."""
    return target[:, 1] * cross_entropy_each(output, target[:, 0].long())


def pose(name: str, seed: int, device: str) -> Problem:
    """The digits in float32, as they are or with a factor on the loss of each class, in random order."""
    problem, _ = digits_problem(device)
    if name == "plain":
        return problem
    factors = 10 ** torch.linspace(-MAGNITUDE, MAGNITUDE, CLASSES)
    factors = factors[torch.randperm(CLASSES, generator=torch.Generator().manual_seed(seed))].to(device)
    return Problem(problem.x, torch.stack([problem.y.float(), factors[problem.y]], 1), weighted_entropy)


def accuracies(problem: Problem, rule: Scale, seed: int, device: str, epochs: int) -> tuple[list[float], list[float]]:
    """Test accuracy at each lr, and 1 where the training ended in weights that are no numbers."""
    _, data = digits_problem(device)
    found: list[float] = []
    broken: list[float] = []
    for lr in LRS:
        generator = torch.Generator().manual_seed(seed)
        model = plain_mlp(WIDTHS, generator, device)
        for _ in train(model, problem, rule, lr=lr, schedule=cosine, epochs=epochs, generator=generator):
            pass
        found.append(finite_accuracy(model, data))
        broken.append(float(not flat_weights(model).isfinite().all()))
    return found, broken


def run(seed: int, device: str, *, epochs: int = EPOCHS) -> Measurement:
    """For each problem and rule the accuracy at each lr, the best of them, and the share of lrs that broke."""
    out: Measurement = {}
    for name in PROBLEMS:
        problem = pose(name, seed, device)
        for rule, scale in RULES.items():
            found, broken = accuracies(problem, scale, seed, device, epochs)
            out[f"{name}_{rule}_at"] = found
            out[f"{name}_{rule}"] = max(found)
            out[f"{name}_{rule}_broken"] = sum(broken) / len(broken)
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Help where magnitudes differ, no harm where they do not."""
    best = {f"{p}_{r}": t_interval(scalars(measurements, f"{p}_{r}")) for p in PROBLEMS for r in RULES}
    gain = {p: t_interval(_differences(measurements, p, "per_sample", "raw")) for p in PROBLEMS}
    broken = {f"{p}_{r}_broken": max(scalars(measurements, f"{p}_{r}_broken")) for p in PROBLEMS for r in RULES}
    breaks = max(broken[f"{p}_per_sample_broken"] for p in PROBLEMS) > 0
    helps, harms = gain["magnitudes"].low >= GAIN, {p: gain[p].high <= -GAIN for p in PROBLEMS}
    if helps:
        verdict = Verdict.PARTLY if harms["plain"] or breaks else Verdict.SUPPORTED
    else:
        verdict = Verdict.REFUTED if harms["magnitudes"] or gain["magnitudes"].high < GAIN else Verdict.INCONCLUSIVE
    told = {name: f"{100 * interval.mean:.1f} %" for name, interval in best.items()}
    reason = "Best test accuracy over lrs: " + "; ".join(
        f"{TITLES[p]}: raw {told[f'{p}_raw']}, batch unit {told[f'{p}_unit']}, per-sample {told[f'{p}_per_sample']},"
        f" per-sample with a floor of {FLOOR} nats {told[f'{p}_floored']}"
        for p in PROBLEMS
    )
    reason += (
        f". Without the floor up to {100 * max(broken[f'{p}_per_sample_broken'] for p in PROBLEMS):.0f} % of the lrs"
        f" end in nan (float32: the loss of a solved sample is exactly 0), raw"
        f" {100 * max(broken[f'{p}_raw_broken'] for p in PROBLEMS):.0f} %."
    )
    intervals = best | {f"{p}_gain": interval for p, interval in gain.items()}
    return Judgement(verdict, reason, intervals, broken)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Test accuracy against the lr, a rule a colour, a seed a line; a problem a panel."""
    figure, axes = panels(2)
    for axis, problem in zip(axes, PROBLEMS, strict=True):
        for color, rule in zip((BLUE, ORANGE, GREEN, PINK), RULES, strict=True):
            label = {"per_sample": "per-sample", "floored": f"per-sample, floor {FLOOR}"}.get(rule, rule)
            for i, found in enumerate(curves(measurements, f"{problem}_{rule}_at")):
                style = {"color": color, "lw": 0.9, "ms": 3, "alpha": 0.7, "label": label if i == 0 else None}
                axis.plot(LRS, [100 * each for each in found], "o-", **style)
        axis.set(xscale="log", xlabel="lr at the start", ylabel="test accuracy, % (10: nan)", title=TITLES[problem])
        axis.grid(color=GREY, alpha=0.2, lw=0.5)
    axes[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _differences(measurements: Sequence[Measurement], problem: str, rule: str, other: str) -> list[float]:
    """Accuracy under one rule less that under another, seed by seed."""
    pairs = zip(scalars(measurements, f"{problem}_{rule}"), scalars(measurements, f"{problem}_{other}"), strict=True)
    return [a - b for a, b in pairs]


CLAIM = Claim(
    name="per_sample_unit_loss",
    source="000: The case for unit-normalized loss, the note on batch accumulation",
    sentence=(
        "if you're aggregating within a batch with different expected loss magnitudes it may help to do"
        " (loss/loss.detach()).mean().backward() with reduction='none'"
    ),
    threshold=(
        f"Best test accuracy over {len(LRS)} lrs, against the raw mean. SUPPORTED if it is {GAIN} higher where the"
        f" classes' losses differ in magnitude, not {GAIN} lower on the plain digits, and no training ends in nan;"
        f" PARTLY if it is higher there, but lower on the plain digits or some training ends in nan; REFUTED if such a"
        f" gain is excluded where magnitudes differ; INCONCLUSIVE between."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
