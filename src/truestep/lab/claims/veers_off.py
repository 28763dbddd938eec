r"""Full-batch gradient descent with decay fits its images, leaves them again, and converges once decay is off.

A net that fits has a small gradient, so decay shrinks its weights by :math:`1 - \eta \lambda` a step; the curvature
grows as :math:`\|w\|^{-2}` until the lr is too large for it. The source trains a ResNet on 1000 images; we take a BN
MLP under a fixed output layer and 100 digits, at three pairs of lr and decay and torch's eps.

The counter-example has a larger output layer (x8) and a slower decay. It fits so well that the weights must become very
small before the curvature counts, and there eps is no longer small: it makes the loss feel the scale, the gradient gets
a part along the weights that holds them against decay, and the descent converges, decay or not. The same setting
without eps veers off. So does the contrast, no decay, not.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import digits
from truestep.lab._ensemble import EPS, column, draw_ensemble, forward, repeated, sgd_step
from truestep.lab._figure import GREY, PALETTE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (64, 32)
IMAGES: Final = 100
NO_EPS: Final = 1e-30
LOOK: Final = 5  # steps from one look at the accuracy to the next
OFF: Final = 400  # steps with decay turned off, after those with it
POINTS: Final = 200  # of a curve

OFF_COURSE: Final = 0.95  # training accuracy that must be passed downwards, once it was 1
SETTLED: Final = 0.01  # largest rise of the loss in the last half of the steps without decay, as a share of it


class Arm(NamedTuple):
    """One setting: lr, decay, factor on the output layer, eps of the norm."""

    label: str
    lr: float
    weight_decay: float
    head: float = 4.0
    eps: float = EPS


FITTING: Final = {  # 2000 steps: 10, 10 and 60 time scales 1 / (lr · decay)
    "half": Arm("lr .5, decay .01", 0.5, 0.01),
    "tenth": Arm("lr .1, decay .05", 0.1, 0.05),
    "one": Arm("lr 1, decay .03", 1.0, 0.03),
    "free": Arm("lr .5, no decay", 0.5, 0.0),
}
SLOW: Final = {  # 4500 steps: 9 time scales
    "held": Arm("lr .1, decay .02, output layer x8", 0.1, 0.02, 8.0),
    "bare": Arm("the same without eps", 0.1, 0.02, 8.0, NO_EPS),
}
STEPS: Final = (2000, 4500)
DECAYED: Final = ("half", "tenth", "one")
ARMS: Final = FITTING | SLOW


class Course(NamedTuple):
    """Training of several arms: the loss before each step, and the accuracy and norm at each look, [times, arms]."""

    loss: Tensor
    accuracy: Tensor
    norm: Tensor


def descend(arms: Sequence[Arm], seed: int, device: str, steps: int, off: int) -> Course:
    """Full-batch descent of all arms from the same weights, `steps` with decay and `off` without."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device, torch.float64)
    chosen = torch.randperm(len(data.train_y), generator=generator)[:IMAGES]
    nets = repeated(draw_ensemble(1, WIDTHS, generator, device=device, dtype=torch.float64), len(arms))
    nets.head.mul_(column([arm.head for arm in arms], nets))
    nets.eps.copy_(column([arm.eps for arm in arms], nets))
    x, y = data.train_x[chosen].expand(len(arms), -1, -1), data.train_y[chosen].expand(len(arms), -1)
    lr, decay = column([arm.lr for arm in arms], nets), column([arm.weight_decay for arm in arms], nets)
    losses: list[Tensor] = []
    looks: list[tuple[Tensor, Tensor]] = []
    for step in range(steps + off):
        if step % LOOK == 0:
            with torch.no_grad():
                right = (forward(nets, x).argmax(-1) == y).double().mean(1)
            looks.append((right, torch.cat([w.detach().flatten(1) for w in nets.hidden], 1).norm(dim=1)))
        losses.append(sgd_step(nets, x, y, lr, decay if step < steps else torch.zeros_like(decay)))
    accuracy, norm = (torch.stack(found) for found in zip(*looks, strict=True))
    return Course(torch.stack(losses), accuracy, norm)


def lowest_after_fit(accuracy: Tensor) -> float:
    """The least accuracy after it was first 1; 1 if it never was, since then nothing was left.

    Example:
        >>> lowest_after_fit(torch.tensor([0.5, 1.0, 0.75, 1.0]))
        0.75
    """
    fitted = (accuracy == 1).nonzero()
    return accuracy[int(fitted[0]) :].min().item() if len(fitted) else 1.0


def largest_rise(loss: Tensor) -> float:
    """The largest rise of the loss above its lowest so far, as a share of that.

    Example:
        >>> largest_rise(torch.tensor([4.0, 2.0, 3.0, 1.0]))
        0.5
    """
    return (loss / loss.cummin(0).values).max().item() - 1


def run(seed: int, device: str, *, steps: Sequence[int] = STEPS, off: int = OFF) -> Measurement:
    """For each arm: least accuracy after the fit, falls below 1, and what happens without decay."""
    out: Measurement = {}
    for arms, on in zip((FITTING, SLOW), steps, strict=True):
        course = descend(list(arms.values()), seed, device, on, off)
        for i, name in enumerate(arms):
            accuracy, loss = course.accuracy[:, i], course.loss[:, i]
            decayed = accuracy[: on // LOOK]
            out[f"{name}_lowest"] = lowest_after_fit(decayed)
            out[f"{name}_falls"] = float(((decayed[1:] < 1) & (decayed[:-1] == 1)).sum())
            out[f"{name}_fitted"] = float((decayed == 1).any())
            out[f"{name}_norm"] = course.norm[on // LOOK - 1, i].item()
            out[f"{name}_rise"] = largest_rise(loss[on + off // 2 :])
            out[f"{name}_end"] = accuracy[(on + off // 2) // LOOK :].min().item()
            out[f"{name}_curve"] = loss[:: max(1, (on + off) // POINTS)][:POINTS].log10().tolist()
    return out


def veered(measurements: Sequence[Measurement], name: str) -> float:
    """Share of the seeds that left the fit."""
    left = [lowest <= OFF_COURSE for lowest in scalars(measurements, f"{name}_lowest")]
    return sum(left) / len(left)


def converged(measurements: Sequence[Measurement], name: str) -> bool:
    """Whether all seeds, once decay is off, end fitted with a loss that no longer rises."""
    fitted = all(end == 1 for end in scalars(measurements, f"{name}_end"))
    return fitted and max(scalars(measurements, f"{name}_rise")) <= SETTLED


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Which settings leave the fit in every seed and come to rest without decay."""
    share = {name: veered(measurements, name) for name in ARMS}
    usual = [share[name] == 1 and converged(measurements, name) for name in DECAYED]
    if share["free"] > 0:
        verdict = Verdict.INCONCLUSIVE
    elif all(usual) and share["held"] == 1 and converged(measurements, "held"):
        verdict = Verdict.SUPPORTED
    elif any(usual):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.REFUTED if not any(share[name] for name in DECAYED) else Verdict.INCONCLUSIVE
    intervals = {f"{name}_lowest": t_interval(scalars(measurements, f"{name}_lowest")) for name in ARMS}
    intervals |= {f"{name}_falls": t_interval(scalars(measurements, f"{name}_falls")) for name in DECAYED}
    numbers = {f"{name}_veered": value for name, value in share.items()}
    return Judgement(verdict, told(measurements), intervals, numbers)


def told(measurements: Sequence[Measurement]) -> str:
    """The reason, with the numbers in it."""
    lowest = {name: t_interval(scalars(measurements, f"{name}_lowest")).mean for name in ARMS}
    row = "; ".join(
        f"{ARMS[name].label}: {100 * veered(measurements, name):.0f} % of seeds, down to {100 * lowest[name]:.0f} %"
        for name in (*DECAYED, "held", "bare", "free")
    )
    settled = sum(converged([m], name) for m in measurements for name in DECAYED)
    norm = median(scalars(measurements, "held_norm"))
    return (
        f"How many of the seeds leave a training accuracy of 100 % again for {100 * OFF_COURSE:g} % or less, and the"
        f" mean of the lowest then. {row}. With decay turned off {settled} of {len(DECAYED) * len(measurements)} of the"
        f" first three converge. Under the large output layer the weights shrink to a norm of {norm:.2g} (median),"
        f" where eps 1e-5 counts, before the curvature does."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """The first seed's loss against the share of the run: settings that veer off, and the counter-example."""
    figure, axes = panels(2)
    for axis, names, on in zip(axes, (("half", "tenth", "free"), ("held", "bare")), STEPS, strict=True):
        for color, name in zip(PALETTE, names, strict=False):
            curve = curves(measurements, f"{name}_curve")[0]
            steps = [(on + OFF) * i / len(curve) for i in range(len(curve))]
            axis.plot(steps, curve, color=color, lw=0.9, label=ARMS[name].label)
        axis.axvline(on, color=GREY, lw=0.8, ls=":")
        axis.set(xlabel="step; dotted: decay is turned off", ylabel="log₁₀ of the training loss")
        axis.legend()
    return figure


CLAIM = Claim(
    name="veers_off",
    source="004: Li and Arora, blog post on normalized nets and the intrinsic LR (2020), “(Against CW1)”, Figure 1",
    sentence=(
        "ResNet can easily get to 100% training accuracy but then veers off. When WD is turned off at epoch 30000 it"
        " converges."
    ),
    threshold=(
        f"A setting does so if every seed reaches a training accuracy of 1, falls to {OFF_COURSE:g} or less after it,"
        f" and in the last half of {OFF} steps with decay turned off stays at 1 with a loss that rises by no more than"
        f" {100 * SETTLED:g} %. SUPPORTED if so at all three lrs and decays and in the counter-example's setting"
        f" (output layer x8, slow decay) with torch's eps; PARTLY if at one of the three; REFUTED if at none of them"
        f" any seed veers off; INCONCLUSIVE otherwise, or if a run without decay veers off."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
