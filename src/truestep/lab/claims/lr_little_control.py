r"""The lr gives little control over the effective lr.

With :math:`r = \|w\|^2` that grows as :math:`r_k^2 = r_0^2 + 2 \eta^2 G k`, the effective lr :math:`\eta / r` goes to
:math:`1 / \sqrt{2 G k}`, from which :math:`\eta` has gone. The control that is left is the exponent a in
:math:`\eta / r \propto \eta^a` over a row of lrs: 1 at the first step, 0 if the lr had no say. G, the squared gradient
at the unit sphere, falls as the net learns, and faster at some lrs than at others: so we measure it. An lr so small
that no norm grows in the time keeps all control: the exponent over a row of lrs depends on where the row begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import normalize

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import Digits, digits
from truestep.lab._figure import GREY, ORANGE, PALETTE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._normalized import (
    BATCH,
    STEPS,
    Weights,
    log_spaced,
    mean_losses,
    normalized_relu,
    outputs,
    random_copies,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LRS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # one copy of the net each, and one more kept on the unit sphere
UPPER: Final = 3  # index of the first lr of the upper half, 0.3

LITTLE: Final = 0.5  # an exponent below: less than half of a change of lr, in logarithms, arrives
KEPT: Final = 0.9  # the contrast's exponent must be above


def exponent(lrs: Float64[Tensor, " copies"], values: Float64[Tensor, "*steps copies"]) -> Float64[Tensor, "*steps"]:
    """The exponent a of value ~ lr^a, by least squares on logarithms.

    Example:
        >>> lrs = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
        >>> exponent(lrs, 3 * lrs.sqrt())
        tensor(0.5000, dtype=torch.float64)
    """
    x = lrs.log() - lrs.log().mean()
    return (x * values.log()).sum(-1) / x.square().sum()


def effective(hidden: Weights, lrs: Tensor) -> Float64[Tensor, " copies"]:
    """The quotient lr / ‖w‖² of each copy, the geometric mean over its hidden units."""
    squares = torch.cat([w.detach().double().square().sum(2) for w in hidden], dim=1)  # [copies, units]
    return lrs / squares.log().mean(1).exp()


def train(data: Digits, generator: torch.Generator, steps: int) -> tuple[Tensor, Tensor]:
    """Plain SGD at every lr: effective lr [steps, 2 copies], then those on the sphere; and the training loss."""
    device = str(data.train_x.device)
    lrs = torch.tensor(LRS * 2, dtype=torch.float64, device=device)
    weights = random_copies(len(lrs), generator, device)
    hidden, free = weights[:-1], len(LRS)  # the head stays as it is: the net has no scale at all
    _project(hidden, free)
    trace: list[Tensor] = []
    for _ in range(steps):
        trace.append(effective(hidden, lrs))
        index = torch.randint(len(data.train_y), (BATCH,), generator=generator)
        loss = mean_losses(outputs(weights, data.train_x[index], normalized_relu), data.train_y[index])
        gradients = torch.autograd.grad(loss.sum(), hidden)
        with torch.no_grad():
            for w, g in zip(hidden, gradients, strict=True):
                w.sub_(lrs.to(w)[:, None, None] * g)
        _project(hidden, free)
    with torch.no_grad():
        final = mean_losses(outputs(weights, data.train_x, normalized_relu), data.train_y)
    return torch.stack(trace), final.double()


@torch.no_grad()
def _project(hidden: Weights, free: int) -> None:
    """Rows of the copies behind the first `free` ones to norm 1."""
    for w in hidden:
        w[free:] = normalize(w[free:], dim=2)


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Exponent of the effective lr over the lrs, along the training and at its end."""
    trace, loss = train(digits(device), torch.Generator().manual_seed(seed), steps)
    lrs = torch.tensor(LRS, dtype=torch.float64, device=device)
    free, sphere = trace[:, : len(LRS)], trace[:, len(LRS) :]
    whole, upper = exponent(lrs, free), exponent(lrs[UPPER:], free[:, UPPER:])  # [steps]
    shown = log_spaced(steps).to(device)
    out: Measurement = {
        "whole": whole[-1].item(),
        "upper": upper[-1].item(),
        "lower": exponent(lrs[: UPPER + 1], free[:, : UPPER + 1])[-1].item(),
        "sphere": exponent(lrs, sphere)[-1].item(),
        "step": shown.double().tolist(),
        "whole_curve": whole[shown].tolist(),
        "upper_curve": upper[shown].tolist(),
        "loss": loss[: len(LRS)].tolist(),
        "loss_sphere": loss[len(LRS) :].tolist(),
    }
    for i in range(len(LRS)):
        out[f"effective_{i}"] = free[shown, i].tolist()
    return out


def verdict(whole: Interval, upper: Interval, sphere: Interval) -> Verdict:
    """Of the whole row of lrs, then of its upper half."""
    if sphere.low < KEPT:
        return Verdict.INCONCLUSIVE
    if whole.high < LITTLE:
        return Verdict.SUPPORTED
    if upper.high < LITTLE and whole.low > LITTLE:
        return Verdict.PARTLY
    return Verdict.REFUTED if upper.low >= LITTLE else Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The exponents at the end of training."""
    names = ("whole", "upper", "lower", "sphere")
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    rows = [curves(measurements, f"effective_{i}") for i in (0, len(LRS) - 1)]  # of the least and the largest lr
    ends = [sum(row[-1] for row in seeds) / len(seeds) for seeds in rows]
    reason = (
        f"After {STEPS} steps the effective lr goes as lr to the power {interval['whole']} over lrs {LRS[0]} to"
        f" {LRS[-1]:g} (at the first step 1): lrs a factor {LRS[-1] / LRS[0]:.0f} apart have effective lrs"
        f" {ends[1] / ends[0]:.3g} apart. That is a mean over two regimes, and hangs on where the row of lrs begins:"
        f" from lr {LRS[UPPER]} on the power is {interval['upper']}, up to there, where norms hardly grow,"
        f" {interval['lower']}. With weights kept on the unit sphere it is {interval['sphere'].mean:.3g}."
    )
    found = verdict(interval["whole"], interval["upper"], interval["sphere"])
    return Judgement(found, reason, interval)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Effective lr along the training, a line for each lr; and the exponent that is left."""
    figure, (left, right) = panels(2)
    steps = [step + 1 for step in curves(measurements, "step")[0]]
    colors = (*PALETTE, GREY)
    for i, (lr, color) in enumerate(zip(LRS, colors, strict=True)):
        for j, values in enumerate(curves(measurements, f"effective_{i}")):
            left.plot(steps, values, color=color, lw=0.8, alpha=0.6, label=f"lr {lr:g}" if j == 0 else None)
    left.set(xscale="log", yscale="log", xlabel="step", ylabel="effective lr, lr/‖w‖²")
    for name, color, label in (("whole", PALETTE[0], "all lrs"), ("upper", ORANGE, f"lr ≥ {LRS[UPPER]}")):
        for j, values in enumerate(curves(measurements, f"{name}_curve")):
            right.plot(steps, values, color=color, lw=0.8, alpha=0.6, label=label if j == 0 else None)
    right.axhline(LITTLE, color=GREY, lw=0.8, ls="--", label="threshold")
    right.set(xscale="log", xlabel="step", ylabel="a in effective lr ∝ lrᵃ", ylim=(0, 1.05))
    for axis in (left, right):
        axis.legend()
    return figure


CLAIM = Claim(
    name="lr_little_control",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence=(
        "The explicit learning rate hyperparameter α gives you surprisingly little control over the effective"
        " learning rate"
    ),
    threshold=(
        f"a: exponent of effective lr ~ lr^a over lrs {LRS[0]} to {LRS[-1]:g} after {STEPS} steps of SGD on a BN MLP;"
        f" little control is a below {LITTLE}. SUPPORTED if the 95 % interval of a over all lrs lies below; PARTLY if"
        f" it lies above but that over lrs from {LRS[UPPER]} on below; REFUTED if that does not lie below but above;"
        f" INCONCLUSIVE if one crosses, or if a is under {KEPT} with weights projected to the unit sphere."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
