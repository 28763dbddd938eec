"""The output layer has no implicit decay of its lr, and therefore trains faster later in training.

Speed is the rms angle by which a unit's incoming weights turn in a step: it means the same for all layers. The head's
over that of the hidden layers, late over early, is what the sentence speaks of. But gradients of the layers change by
themselves as a net learns; that it is the decay of the hidden layers' lr is seen against a net whose hidden weights
keep their norms and so have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import TYPE_CHECKING, Final

import torch
from torch.optim import SGD

from truestep.core import Gram
from truestep.invariance import UnitSphere, angular_update
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import digits, hidden_weights
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._normalized import LR, STEPS, all_weights, batch_norm_net, joined, log_spaced, rms_angle, watched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EARLY: Final = 100  # steps at the start
LATE: Final = 500  # steps at the end
SMOOTH: Final = 0.1  # a curve's point is the rms over steps this share before and behind it

ARMS: Final = {"plain": ("SGD", BLUE), "held": ("hidden norms held", GREY)}


def train(seed: int, device: str, steps: int, *, hold: bool) -> tuple[Gram, Gram]:
    """Plain SGD on all layers; Grams [steps, units] of the hidden layers and of the head."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device, torch.float64)
    model = batch_norm_net(generator, device)
    optimizer = SGD(list(all_weights(model).values()), lr=LR)
    if hold:
        UnitSphere(optimizer, hidden_weights(model))
    grams = watched(model, optimizer, data, generator, steps)
    names = list(grams)
    return joined([grams[name] for name in names[:-1]]), grams[names[-1]]


def smooth_ratio(hidden: Gram, head: Gram, steps: Sequence[int]) -> list[float]:
    """The head's rms angle over the hidden layers', around each of the steps."""
    squares = [angular_update(gram).square().mean(1) for gram in (head, hidden)]  # [steps]
    windows = [slice(int(k * (1 - SMOOTH)), int(k * (1 + SMOOTH)) + 1) for k in steps]
    return [(squares[0][w].mean() / squares[1][w].mean()).sqrt().item() for w in windows]


def share(hidden: Gram, head: Gram, window: slice) -> float:
    """The head's part in the loss that the steps take away, to first order: Σ<g, d> of it over that of all."""
    parts = [gram.gd[window].sum().item() for gram in (head, hidden)]
    return parts[0] / sum(parts)


def run(seed: int, device: str, *, steps: int = STEPS, early: int = EARLY, late: int = LATE) -> Measurement:
    """For each arm, the logarithm of the head's speed over the hidden layers', early and late."""
    windows = {"early": slice(early), "late": slice(steps - late, steps)}
    shown = log_spaced(steps)
    out: Measurement = {"step": shown.double().tolist()}
    for name in ARMS:
        hidden, head = train(seed, device, steps, hold=name == "held")
        out[f"{name}_curve"] = smooth_ratio(hidden, head, shown.tolist())
        for when, window in windows.items():
            out[f"{name}_{when}"] = log(rms_angle(head, window) / rms_angle(hidden, window))
            out[f"{name}_share_{when}"] = share(hidden, head, window)
        out[f"{name}_head_norm"] = (head.ww[-1] / head.ww[0]).log().mean().div(2).exp().item()
        out[f"{name}_hidden_norm"] = (hidden.ww[-1] / hidden.ww[0]).log().mean().div(2).exp().item()
    return out


def verdict(gain: Interval, effect: Interval) -> Verdict:
    """`gain`: log of the ratio late over early; `effect`: the same less that of the arm without the effect."""
    if gain.low > 0 and effect.low > 0:
        return Verdict.SUPPORTED
    if effect.low > 0:
        return Verdict.PARTLY
    return Verdict.REFUTED if effect.high < 0 or gain.high < 0 else Verdict.INCONCLUSIVE


def differences(measurements: Sequence[Measurement], one: str, other: str) -> list[float]:
    """One measured number less another, per seed."""
    pairs = zip(scalars(measurements, one), scalars(measurements, other), strict=True)
    return [a - b for a, b in pairs]


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The gain from early to late, and what of it the growing norms make."""
    gains = {name: differences(measurements, f"{name}_late", f"{name}_early") for name in ARMS}
    effect = t_interval([a - b for a, b in zip(gains["plain"], gains["held"], strict=True)])
    interval = {name: t_interval(values) for name, values in gains.items()}
    names = [name for name, value in measurements[0].items() if not isinstance(value, list)]
    mean = {name: t_interval(scalars(measurements, name)) for name in names}
    reason = (
        f"The head turns {exp(mean['plain_early'].mean):.2f} times as fast as the hidden units in the first {EARLY}"
        f" steps and {exp(mean['plain_late'].mean):.2f} times in the last {LATE} of {STEPS}; with hidden norms held"
        f" {exp(mean['held_early'].mean):.2f} and {exp(mean['held_late'].mean):.2f}. log(late / early): "
        f"{interval['plain']}, of which {effect} is due to the growing norms. The head's own norm grows too, to"
        f" {mean['plain_head_norm'].mean:.2f} times (hidden: {mean['plain_hidden_norm'].mean:.2f}); its share of the"
        f" loss taken away goes from {mean['plain_share_early'].mean:.0%} to {mean['plain_share_late'].mean:.0%} (held:"
        f" {mean['held_share_late'].mean:.0%})."
    )
    intervals = mean | {"plain_gain": interval["plain"], "held_gain": interval["held"], "effect": effect}
    return Judgement(verdict(interval["plain"], effect), reason, intervals)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """The head's speed over the hidden layers' along the training."""
    figure, (axis,) = panels()
    steps = [step + 1 for step in curves(measurements, "step")[0]]
    for name, (label, color) in ARMS.items():
        for i, values in enumerate(curves(measurements, f"{name}_curve")):
            axis.plot(steps, values, color=color, lw=0.9, alpha=0.7, label=label if i == 0 else None)
    for start, end in ((1, EARLY), (STEPS - LATE, STEPS)):
        axis.axvspan(start, end, color=ORANGE, alpha=0.1, lw=0)
    axis.set(xscale="log", yscale="log", xlabel="step; shaded: early, late", ylabel="angle of a step, head / hidden")
    axis.legend()
    return figure


CLAIM = Claim(
    name="output_layer_late",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence=(
        "Effect doesn't apply to the output layer, which doesn't feed into BN — therefore, the output layer trains"
        " faster later in training"
    ),
    threshold=(
        f"q: log of the head's rms angle per step over the hidden units', last {LATE} of {STEPS} steps less first"
        f" {EARLY}; SGD, lr {LR}. SUPPORTED if the 95 % intervals of q, and of q less that of a training with hidden"
        f" norms held, lie above 0; PARTLY if only the latter (faster than without the effect, not faster than before);"
        f" REFUTED if one of them lies below 0 and the latter not above; INCONCLUSIVE else."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
