r"""Different optimizers decay the effective lr differently.

All start at one speed: each lr is set so that the rms angle of the first steps is that of SGD. The schedule is the
effective lr by the optimizer's own formula over its value at the start: with :math:`r = \|w\|^2`, that is
:math:`r_0 / r` under SGD, with momentum or without, and :math:`\sqrt{r_0 / r}` under Adam and Lion, whose steps do not
scale with the gradient. SGD with other batches is the contrast: one algorithm must have one schedule. What "one speed"
means matters for momentum, whose steps are shorter than its lr / (1 - momentum) says while gradients disagree: an arm
that has SGD's lr in that sense is shown besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import exp, log
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from truestep.core import Gram
from truestep.invariance import angular_update, direction_lr, rules
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import digits, hidden_weights
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PINK, SKY, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._normalized import LR, STEPS, batch_norm_net, joined, log_spaced, rms_angle, typical, watched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

START: Final = 20  # steps over which the speed is set equal
TRIALS: Final = 2  # corrections of the lr
LATE: Final = 300  # steps at the end over which the angle is shown
OTHER_BATCHES: Final = 10_000  # added to the seed

APART: Final = 1.25  # schedules whose ends are a factor apart at least that are different
ALIKE: Final = 1.1  # ... and of the contrast's two, at most

Build: TypeAlias = Callable[[list[Tensor], float], Optimizer]


class Lion(Optimizer):
    """The sign of a mean of gradients, without decay; torch has none (Chen et al. 2023, arXiv:2302.06675)."""

    def __init__(self, params: list[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; takes no closure."""
        assert closure is None
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.sub_(torch.sign(beta1 * mean + (1 - beta1) * p.grad), alpha=group["lr"])
                mean.lerp_(p.grad, 1 - beta2)


def sgd(params: list[Tensor], lr: float, momentum: float = 0.0) -> Optimizer:
    """Torch's SGD."""
    return SGD(params, lr=lr, momentum=momentum)


def adam(params: list[Tensor], lr: float) -> Optimizer:
    """Torch's Adam."""
    return Adam(params, lr=lr)


class Arm(NamedTuple):
    """An optimizer, and the lr from which its search starts."""

    label: str
    color: str
    build: Build
    lr: float
    batches: int = 0  # added to the seed of the batches
    match: bool = True  # whether the lr is set by the angle


ARMS: Final = {
    "sgd": Arm("SGD", BLUE, sgd, LR, match=False),
    "momentum": Arm("SGD, momentum .9", SKY, partial(sgd, momentum=0.9), 0.1 * LR),
    "adam": Arm("Adam", ORANGE, adam, 1e-2),
    "lion": Arm("Lion", PINK, Lion, 1e-2),
    "again": Arm("SGD, other batches", GREY, sgd, LR, OTHER_BATCHES, match=False),
    "same_lr": Arm("momentum .9, lr / 10", GREEN, partial(sgd, momentum=0.9), 0.1 * LR, match=False),
}
JUDGED: Final = ("sgd", "momentum", "adam", "lion")


def train(arm: Arm, lr: float, seed: int, device: str, steps: int) -> tuple[Gram, Float64[Tensor, "steps units"]]:
    """Every step's Gram of all hidden units under a fixed head, and the effective lr by the optimizer's formula."""
    data = digits(device, torch.float64)
    model = batch_norm_net(torch.Generator().manual_seed(seed), device)
    optimizer = arm.build(list(hidden_weights(model).values()), lr)
    batches = torch.Generator().manual_seed(1000 + seed + arm.batches)
    grams = watched(model, optimizer, data, batches, steps)
    gram = joined([grams[name] for name in hidden_weights(model)])
    (rule,) = rules(optimizer)
    return gram, direction_lr(gram, rule)


def matched_lr(arm: Arm, angle: float, seed: int, device: str, steps: int) -> float:
    """The lr at which the rms angle of the first steps is `angle`, by proportion, some times over."""
    lr = arm.lr
    for _ in range(TRIALS):
        gram, _ = train(arm, lr, seed, device, steps)
        lr *= angle / rms_angle(gram, slice(None))
    return lr


def run(seed: int, device: str, *, steps: int = STEPS, start: int = START) -> Measurement:
    """For each optimizer the log of its effective lr at the end over that at the start; courses and angles to show."""
    first, _ = train(ARMS["sgd"], LR, seed, device, start)
    angle, shown = rms_angle(first, slice(None)), log_spaced(steps)
    out: Measurement = {"step": shown.double().tolist(), "angle_at_start": angle}
    for name, arm in ARMS.items():
        lr = matched_lr(arm, angle, seed, device, start) if arm.match else arm.lr
        gram, effective = train(arm, lr, seed, device, steps)
        relative = typical(effective / effective[0])  # [steps]
        turned = angular_update(gram).square().mean(1)  # [steps]
        out |= {
            f"{name}_lr": lr,
            f"{name}_decay": relative[-1].log().item(),
            f"{name}_angle": log(rms_angle(gram, slice(-LATE, None)) / rms_angle(gram, slice(start))),
            f"{name}_curve": relative[shown].tolist(),
            f"{name}_turned": turned[shown].sqrt().tolist(),
        }
    return out


def paired(measurements: Sequence[Measurement], one: str, other: str) -> Interval:
    """Log of one arm's decay over another's, seed by seed."""
    pairs = zip(*(scalars(measurements, f"{name}_decay") for name in (one, other)), strict=True)
    return t_interval([a - b for a, b in pairs])


def verdict(differences: Sequence[Interval], again: Interval) -> Verdict:
    """`differences` between optimizers, `again` between two runs of one; logarithms of the ends' ratio."""
    if max(abs(again.low), abs(again.high)) > log(ALIKE):
        return Verdict.INCONCLUSIVE
    apart = [d.low > log(APART) or d.high < -log(APART) for d in differences]
    if all(apart):
        return Verdict.SUPPORTED
    if any(apart):
        return Verdict.PARTLY
    together = all(max(abs(d.low), abs(d.high)) <= log(APART) for d in differences)
    return Verdict.REFUTED if together else Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Each optimizer against SGD."""
    differences = {name: paired(measurements, name, "sgd") for name in (*JUDGED[1:], "again")}
    decay = {name: t_interval(scalars(measurements, f"{name}_decay")) for name in ARMS}
    angle = {name: t_interval(scalars(measurements, f"{name}_angle")) for name in ARMS}
    end = {name: f"{exp(interval.mean):.3f}" for name, interval in decay.items()}
    reason = (
        f"From equal angles in the first {START} steps, the effective lr falls in {STEPS} steps to {end['sgd']} of its"
        f" start under SGD (other batches: {end['again']}), {end['momentum']} with momentum .9"
        f" (with SGD's lr / (1 - momentum) instead of its angle {end['same_lr']}), {end['adam']} under Adam and"
        f" {end['lion']} under Lion; log ratios to SGD {differences['momentum']}, {differences['adam']},"
        f" {differences['lion']}. The angles of the last {LATE} steps, where gradients count too, are"
        f" {', '.join(f'{exp(angle[name].mean):.2g}' for name in JUDGED)} of their start."
    )
    intervals = {f"{name}_decay": interval for name, interval in decay.items()}
    intervals |= {f"{name}_angle": interval for name, interval in angle.items()}
    intervals |= {f"{name}_less_sgd": interval for name, interval in differences.items()}
    return Judgement(verdict([differences[name] for name in JUDGED[1:]], differences["again"]), reason, intervals)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Left the effective lr over its start, right the angle of a step; five seeds."""
    figure, (left, right) = panels(2)
    steps = [step + 1 for step in curves(measurements, "step")[0]]
    for name, arm in ARMS.items():
        for axis, course in ((left, "curve"), (right, "turned")):
            for i, values in enumerate(curves(measurements, f"{name}_{course}")[:5]):
                axis.plot(steps, values, color=arm.color, lw=0.8, alpha=0.6, label=arm.label if i == 0 else None)
    left.set(ylabel="effective lr / that at the start")
    right.set(ylabel="angle of a step, rms over units, rad")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", xlabel="step")
        axis.grid(color=GREEN, alpha=0.1, lw=0.5)
    left.legend()
    return figure


CLAIM = Claim(
    name="optimizer_schedules",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence="Different algorithms can have different decay schedules",
    threshold=(
        f"BN MLP, {STEPS} steps, no weight decay, lrs that give one rms angle in the first {START} steps; the effective"
        f" lr at the end over the start, by each rule's formula. SUPPORTED if momentum, Adam and Lion each end a factor"
        f" {APART} or more from SGD (95 % interval, seed by seed); PARTLY if one or two do; REFUTED if all end within;"
        f" INCONCLUSIVE else, or if SGD with other batches ends more than {ALIKE} from SGD."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
