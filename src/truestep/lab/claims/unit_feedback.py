r"""Every unit has an effective lr of its own, and that is a sort of feedback control.

Under plain SGD :math:`\|w'\|^2 = \|w\|^2 (1 + \tan^2 \theta)` for a step of angle :math:`\theta`, so a unit's effective
lr is its first one over the product of all :math:`1 + \tan^2 \theta`: who has turned along a longer path is slower, by
an identity. The sentence says "changed a lot", which we read as the angle between a unit's weights now and at the
start. That it is a feedback is another thing: a disturbance must be taken back. So a random half of the units starts at
a quarter of the norm (the network is the same, their effective lr is 16 times as high), and we see what is left of the
gap. Units whose norms are held are the contrast: no feedback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import SGD

from truestep.core import Gram
from truestep.invariance import UnitSphere, angular_update
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import digits, hidden_weights
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._normalized import LR, STEPS, batch_norm_net, joined, log_spaced, watched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHRUNK: Final = 0.25  # norm of the disturbed half

TOGETHER: Final = -0.5  # a rank correlation below: who changed more is slower
BACK: Final = 0.5  # share of the gap that may be left if it was taken back
HELD: Final = 0.99  # share that must be left where norms are held


class Course(NamedTuple):
    """One training: every step's Gram of all hidden units, which of them were shrunk, the change of each."""

    gram: Gram  # [steps, units]
    shrunk: Tensor  # [units], bool
    change: Float64[Tensor, " units"]  # angle between the weights at the end and at the start, rad
    layers: list[int]  # units of each


def rank_correlation(x: Float64[Tensor, " n"], y: Float64[Tensor, " n"]) -> float:
    """Spearman's correlation of numbers without ties.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        >>> rank_correlation(x, -(x**3))
        -1.0
    """
    ranks = torch.stack([z.argsort().argsort() for z in (x, y)]).double()
    return round(torch.corrcoef(ranks)[0, 1].item(), 12)


def train(seed: int, device: str, steps: int, *, disturb: bool, hold: bool = False) -> Course:
    """Plain SGD under a fixed head, the norms held where `hold`."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device, torch.float64)
    model = batch_norm_net(generator, device)
    weights = hidden_weights(model)
    shrunk = [torch.randperm(len(w), generator=generator).to(device) < len(w) // 2 for w in weights.values()]
    with torch.no_grad():
        for w, mask in zip(weights.values(), shrunk, strict=True):
            w[mask] *= SHRUNK if disturb else 1.0
    start = [w.detach().clone() for w in weights.values()]
    optimizer = SGD(list(weights.values()), lr=LR)
    if hold:
        UnitSphere(optimizer, weights)
    grams = watched(model, optimizer, data, generator, steps)
    moved = [unit_angle(w.detach(), w0) for w, w0 in zip(weights.values(), start, strict=True)]
    gram = joined([grams[name] for name in weights])
    return Course(gram, torch.cat(shrunk), torch.cat(moved), [len(w) for w in start])


def unit_angle(w: Float64[Tensor, "units inputs"], start: Float64[Tensor, "units inputs"]) -> Float64[Tensor, " units"]:
    """Angle between the rows, in rad."""
    d = w - start
    products = [(start * start).sum(1), (start * d).sum(1), (d * d).sum(1)]
    ww, wd, dd = products
    return angular_update(Gram(ww=ww, wg=ww, wd=wd, gg=ww, gd=ww, dd=dd))


def gap(course: Course) -> Float64[Tensor, " steps"]:
    """Log of the effective lr of the shrunk half over that of the others, geometric means, before each step."""
    effective = -course.gram.ww.log()  # [steps, units], but for log lr
    return effective[:, course.shrunk].mean(1) - effective[:, ~course.shrunk].mean(1)


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Correlation of change and slowdown in each layer; what is left of the gap, with and without feedback."""
    plain = train(seed, device, steps, disturb=False)
    slowdown = (plain.gram.ww[0] / plain.gram.ww[-1]).log()  # effective lr now over at the start
    path = angular_update(plain.gram)[:-1].tan().square().log1p().sum(0)  # what the identity says of -slowdown
    pairs = zip(plain.change.split(plain.layers), slowdown.split(plain.layers), strict=True)
    gaps = {name: gap(train(seed, device, steps, disturb=True, hold=name == "held")) for name in ("free", "held")}
    shown = log_spaced(steps)
    out: Measurement = {
        "path_error": (path + slowdown).abs().max().item(),
        "spread": slowdown.std().item(),
        "change": plain.change.tolist(),
        "slowdown": slowdown.exp().tolist(),
        "step": shown.double().tolist(),
        "free_left": (gaps["free"][-1] / gaps["free"][0]).item(),
        "held_left": (gaps["held"][-1] / gaps["held"][0]).item(),
        "free_gap": gaps["free"].exp()[shown].tolist(),
        "held_gap": gaps["held"].exp()[shown].tolist(),
    }
    for i, pair in enumerate(pairs, start=1):
        out[f"correlation_{i}"] = rank_correlation(*pair)
    return out


def verdict(correlations: Sequence[Interval], free: Interval, held: Interval) -> Verdict:
    """Both halves of the sentence, against the contrast."""
    if held.low < HELD:
        return Verdict.INCONCLUSIVE
    slows = all(c.high <= TOGETHER for c in correlations)
    not_slows = any(c.low > TOGETHER for c in correlations)
    back, not_back = free.high <= BACK, free.low > BACK
    if slows and back:
        return Verdict.SUPPORTED
    if not_slows and not_back:
        return Verdict.REFUTED
    return Verdict.PARTLY if slows or back else Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Rank correlations and the share of the gap that is left."""
    names = ("correlation_1", "correlation_2", "free_left", "held_left", "spread")
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    error = max(scalars(measurements, "path_error"))
    found = verdict(
        [interval["correlation_1"], interval["correlation_2"]], interval["free_left"], interval["held_left"]
    )
    reason = (
        f"After {STEPS} steps of SGD the rank correlation of a unit's change of direction and its effective lr over"
        f" that at the start is {interval['correlation_1']} in the first layer and {interval['correlation_2']} in the"
        f" second (with the path Σ log(1 + tan²θ) it is -1, an identity: met to {error:.0e}). Of a gap of"
        f" {1 / SHRUNK**2:.0f} times in effective lr, made by shrinking half of the units,"
        f" {interval['free_left'].mean:.0%} of the logarithm is left (norms held: {interval['held_left'].mean:.0%})."
    )
    return Judgement(found, reason, interval, {"path_error": error})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Left each unit's slowdown against its change; right the gap along the training."""
    figure, (left, right) = panels(2)
    changes, slowdowns = curves(measurements, "change"), curves(measurements, "slowdown")
    for i, (change, slowdown) in enumerate(zip(changes, slowdowns, strict=True)):
        half = len(change) // 2
        for part, color, label in ((slice(half), BLUE, "layer 1"), (slice(half, None), ORANGE, "layer 2")):
            style = {"ms": 3, "alpha": 0.5, "mec": "none", "color": color, "label": label if i == 0 else None}
            left.plot(change[part], slowdown[part], "o", **style)
    left.set(xlabel="angle from the start, rad", ylabel="effective lr / that at the start", yscale="log")
    steps = [step + 1 for step in curves(measurements, "step")[0]]
    for name, color, label in (("free", BLUE, "SGD"), ("held", GREY, "norms held")):
        for i, values in enumerate(curves(measurements, f"{name}_gap")):
            right.plot(steps, values, color=color, lw=0.9, alpha=0.7, label=label if i == 0 else None)
    right.set(xscale="log", yscale="log", xlabel="step", ylabel="effective lr, shrunk half / others")
    right.axhline(SHRUNK ** (-2 * BACK), color=GREY, lw=0.8, ls="--", label="half of its log left")
    for axis in (left, right):
        axis.legend()
    return figure


CLAIM = Claim(
    name="unit_feedback",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence=(
        "Separate learning rate for each unit (so features that have already changed a lot get slowed down more) —"
        " maybe a sort of feedback control"
    ),
    threshold=(
        f"SGD, BN MLP, {STEPS} steps. Slowed down more: in both layers, the 95 % interval of the rank correlation over"
        f" units of angle from the start and effective lr over that at the start lies below {TOGETHER}. Feedback: of a"
        f" gap in effective lr, made by shrinking half of the units to {SHRUNK} of their norm, at most {BACK} of the"
        f" logarithm is left (95 % interval). SUPPORTED if both; PARTLY if one; REFUTED if both fail; INCONCLUSIVE if"
        f" intervals cross and neither holds, or if less than {HELD} of the gap is left where norms are held."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
