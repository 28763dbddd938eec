r"""What the lecture names against the implicit decay of the lr: an lr that grows, weight decay, weights of norm 1.

Weight decay and a growing lr are one thing: plain SGD with decay :math:`\lambda` at lr :math:`\eta` computes what SGD
without decay computes at :math:`\eta_k = \eta\, a^{-2k-1}`, :math:`a = 1 - \eta\lambda`. So the two curves must be one,
up to round-off. Neither holds the effective lr where it is: it goes to the value at which decay and growth meet, which
lies above the start or below. Norm 1 does hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler

from truestep.invariance import UnitSphere, effective_lr
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import digits, hidden_weights
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PINK, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._normalized import LR, STEPS, batch_norm_net, joined, log_spaced, typical, watched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECAY: Final = 3e-3
USUAL: Final = 5e-4  # shown, not judged

FALLS: Final = 0.9  # effective lr at the end over that at the start, below which it has decayed
EXACT: Final = 1e-10  # error of the effective lr under norm 1, relative


class Arm(NamedTuple):
    """One way to train: what it is called, its colour, lr, weight decay, the factor of its lr a step, projection."""

    label: str
    color: str
    lr: float = LR
    weight_decay: float = 0.0
    growth: float = 1.0
    sphere: bool = False


KEPT_SHARE: Final = 1 - LR * DECAY  # of a weight, by one step's decay
ARMS: Final = {
    "plain": Arm("constant lr", GREY),
    "exponential": Arm("lr grows exponentially", ORANGE, lr=LR / KEPT_SHARE, growth=KEPT_SHARE**-2),
    "decay": Arm(f"weight decay {DECAY}", BLUE, weight_decay=DECAY),
    "usual_decay": Arm(f"weight decay {USUAL}", GREEN, weight_decay=USUAL),
    "sphere": Arm("norm 1", PINK, sphere=True),
}
REMEDIES: Final = ("exponential", "decay", "sphere")


def build(arm: Arm, model: nn.Sequential) -> tuple[Optimizer, LRScheduler]:
    """SGD over the hidden weights, with what the arm adds."""
    weights = hidden_weights(model)
    optimizer = SGD(list(weights.values()), lr=arm.lr, weight_decay=arm.weight_decay)
    if arm.sphere:
        UnitSphere(optimizer, weights, radius=1.0)
    return optimizer, ExponentialLR(optimizer, arm.growth)


def course(arm: Arm, seed: int, device: str, steps: int) -> Float64[Tensor, "steps units"]:
    """Effective lr of every hidden unit before each step."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device, torch.float64)
    model = batch_norm_net(generator, device)
    optimizer, scheduler = build(arm, model)
    lrs = arm.lr * torch.tensor(arm.growth, dtype=torch.float64) ** torch.arange(steps)  # [steps]
    grams = watched(model, optimizer, data, generator, steps, scheduler.step)
    gram = joined([grams[name] for name in hidden_weights(model)])
    return effective_lr(gram, lrs[:, None].to(device).expand_as(gram.ww))


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """For each arm the effective lr at the end over that at the start, and its course."""
    traces = {name: course(arm, seed, device, steps) for name, arm in ARMS.items()}
    shown = log_spaced(steps)
    twin = (traces["exponential"] / (traces["decay"] / KEPT_SHARE) - 1).abs()  # its lr is 1 / a times the run's
    out: Measurement = {
        "step": shown.double().tolist(),
        "twin_error": twin.max().item(),
        "sphere_error": (traces["sphere"] / LR - 1).abs().max().item(),
    }
    for name, trace in traces.items():
        relative = typical(trace / trace[0])
        out |= {f"{name}_end": relative[-1].item(), f"{name}_curve": typical(trace)[shown].tolist()}
    return out


def verdict(ends: dict[str, Interval], sphere_error: float) -> Verdict:
    """Each remedy must keep the effective lr from falling, where the plain run's falls."""
    if ends["plain"].high >= FALLS:
        return Verdict.INCONCLUSIVE
    works = [ends[name].low >= FALLS and (name != "sphere" or sphere_error <= EXACT) for name in REMEDIES]
    fails = [ends[name].high < FALLS or (name == "sphere" and sphere_error > EXACT) for name in REMEDIES]
    if all(works):
        return Verdict.SUPPORTED
    if all(fails):
        return Verdict.REFUTED
    return Verdict.PARTLY if any(works) else Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """End over start for each remedy."""
    ends = {name: t_interval(scalars(measurements, f"{name}_end")) for name in ARMS}
    sphere, twin = (max(scalars(measurements, f"{name}_error")) for name in ("sphere", "twin"))
    reason = (
        f"After {STEPS} steps the effective lr is {ends['plain']} of its start at a constant lr, {ends['exponential']}"
        f" under an lr that grows by {ARMS['exponential'].growth - 1:.2%} a step, {ends['decay']} under weight decay"
        f" {DECAY} (the same run as the growing lr, to {twin:.0e}) and {ends['usual_decay']} under {USUAL}: both let it"
        f" go to where growth and decay meet. With norm 1 it is lr to {sphere:.0e} at every step."
    )
    intervals = {f"{name}_end": interval for name, interval in ends.items()}
    return Judgement(verdict(ends, sphere), reason, intervals, {"twin_error": twin, "sphere_error": sphere})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Effective lr against the step: a thin line per seed, a colour per arm."""
    figure, (axis,) = panels()
    steps = [step + 1 for step in curves(measurements, "step")[0]]
    for name, arm in ARMS.items():
        dash = "--" if name == "decay" else "-"  # lies on the line of "exponential"
        for i, values in enumerate(curves(measurements, f"{name}_curve")):
            axis.plot(steps, values, dash, color=arm.color, lw=0.8, alpha=0.7, label=arm.label if i == 0 else None)
    axis.set(xscale="log", yscale="log", xlabel="step", ylabel="effective lr, lr/‖w‖²")
    axis.legend()
    return figure


CLAIM = Claim(
    name="counteracting_decay",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence=(
        "Counteracting the implicit LR effect: Exponentially increasing LR schedule (Li and Arora, 2020); Use weight"
        " decay (up next!); Explicitly normalize each w_j to unit norm. Then the effective LR is just α"
    ),
    threshold=(
        f"SGD, lr {LR}, BN MLP, {STEPS} steps; counteracted is an effective lr at the end of at least {FALLS} of its"
        f" start (95 % interval of the geometric mean over units). SUPPORTED if the exponential lr, weight decay"
        f" {DECAY} and norm 1 each do, and with norm 1 the effective lr is lr to {EXACT:.0e} at every step; PARTLY if"
        f" not all do; REFUTED if none does; INCONCLUSIVE if at constant lr without decay it does not fall below"
        f" {FALLS}, or if intervals cross and none does."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
