r"""Do uncertainty weights grow too large too quickly? Two numbers decide, and neither is in the source.

Uncertainty weighting descends on :math:`\tfrac12 e^{-s} L + \tfrac12 s` in the weights and in s; its optimum is
:math:`w = 1/(2L)`. **How quickly**: Adam moves s by about its lr a step, so that losses 1e4 apart need 9.2/lr steps. On
the toy of GradNorm's paper (`truestep.lab.toy`) it is measured how many decades the weights are from 1/(2L) at the end,
with s at the network's own kind of lr and with a fast s. **How large**: L cannot fall below what remains of it, c, so
that w stays below 1/(2c). On :math:`L = c + h x^2 / 2` gradient descent at lr :math:`\eta` is stable while
:math:`w \eta h < 2`, which the optimal weight keeps where :math:`\eta h < 4c`. Several c, side by side, say when
w grows past that.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PALETTE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._toy_methods import equal, uncertainty
from truestep.lab.toy import Course, make_toy, scales, train
from truestep.multitask import UncertaintyWeighting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

S_LRS: Final = {"slow": 1e-3, "fast": 0.1}  # of the log variances
TOY_STEPS: Final = {2: 500, 10: 300}  # by number of tasks
TOY_LR: Final = 4e-3  # of Adam

REMAINS: Final = (1.0, 0.1, 0.01, 0.001, 0.0)  # c of the quadratics
STEPS: Final = 3000
ETA: Final = 0.1  # lr of gradient descent; curvatures are near 1, so that w eta h < 2 needs c > about .025
EVERY: Final = 10  # steps between two points of a curve

TOO_LARGE: Final = 2.0  # w eta h from which gradient descent overshoots by more than it started


def quadratics(lr: float, seed: int, steps: int) -> tuple[Tensor, Tensor]:
    """Gradient descent on c + h x²/2 for each c, weighted: w eta h and the excess h x²/2 at each step, [steps, c]."""
    generator = torch.Generator().manual_seed(seed)
    remains = torch.tensor(REMAINS, dtype=torch.float64)
    x = torch.randn((), dtype=torch.float64, generator=generator).abs().add(0.5).repeat(len(remains))
    h = (0.25 * torch.randn((), dtype=torch.float64, generator=generator)).exp()  # curvature
    rule = UncertaintyWeighting(lr=lr)
    rule.start(tuple(f"c = {c:g}" for c in REMAINS))
    rates: list[Tensor] = []
    excess: list[Tensor] = []
    for _ in range(steps):
        excess.append(h * x.square() / 2)
        rates.append(ETA * h * 0.5 * torch.exp(-rule.log_variance))  # w eta h
        rule(remains + excess[-1])  # s takes its step
        x = x - rates[-1] * x
    return torch.stack(rates), torch.stack(excess)


def decades_off(course: Course) -> float:
    """The largest distance of a task's last weight from 1/(2L), in decades."""
    each = zip(course.weights.values(), course.progress.values(), course.start.values(), strict=True)
    return max(abs(log10(2 * weights[-1] * progress[-1] * start)) for weights, progress, start in each)


def run(
    seed: int,
    device: str,  # noqa: ARG001 (the toy is CPU's)
    *,
    toy_steps: dict[int, int] = TOY_STEPS,
    steps: int = STEPS,
) -> Measurement:
    """Decades off and progress on the toy; the largest w eta h and how far each quadratic is thrown above its start."""
    out: Measurement = {}
    for tasks, count in toy_steps.items():
        toy = make_toy(scales(tasks), seed)
        out[f"T{tasks}_equal_mean"] = train(toy, equal, lr=TOY_LR, steps=count, seed=seed).mean
        for name, lr in S_LRS.items():
            course = train(toy, uncertainty(lr), lr=TOY_LR, steps=count, seed=seed)
            out |= {f"T{tasks}_{name}_mean": course.mean, f"T{tasks}_{name}_off": decades_off(course)}
    for name, lr in S_LRS.items():
        rates, excess = quadratics(lr, seed, steps)
        for i, c in enumerate(REMAINS):
            thrown = (excess[:, i].max() / excess[0, i]).item()
            out |= {f"{name}_{c:g}_rate": rates[:, i].max().item(), f"{name}_{c:g}_thrown": thrown}
            out[f"{name}_{c:g}_curve"] = rates[::EVERY, i].tolist()
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Too large whatever remains and however s moves; in some cases; in none."""
    names = [name for name in measurements[0] if not isinstance(measurements[0][name], list)]
    thrown = {name for name in names if name.endswith("thrown")}  # over many decades: no mean
    interval = {name: t_interval(scalars(measurements, name)) for name in names if name not in thrown}
    rates = [interval[f"{name}_{c:g}_rate"] for name in S_LRS for c in REMAINS]
    if all(rate.low > TOO_LARGE for rate in rates):
        verdict = Verdict.SUPPORTED
    elif any(rate.low > TOO_LARGE for rate in rates):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.REFUTED if all(rate.high < TOO_LARGE for rate in rates) else Verdict.INCONCLUSIVE
    numbers = {name: max(scalars(measurements, name)) for name in sorted(thrown)}
    return Judgement(verdict, reason(interval, numbers), interval, numbers)


def reason(interval: dict[str, Interval], numbers: dict[str, float]) -> str:
    """The sentence with the numbers."""
    told = {
        name: ", ".join(f"{interval[f'{name}_{c:g}_rate'].mean:.2g}" for c in REMAINS) + f" at lr {lr:g} of s"
        for name, lr in S_LRS.items()
    }
    toys = "; ".join(
        f"T = {tasks}: {interval[f'T{tasks}_slow_off'].mean:.1f} and {interval[f'T{tasks}_fast_off'].mean:.1f} decades"
        f" off 1/(2L), mean L(t)/L(0) {interval[f'T{tasks}_slow_mean'].mean:.3f} and"
        f" {interval[f'T{tasks}_fast_mean'].mean:.3f}, equal weights {interval[f'T{tasks}_equal_mean'].mean:.3f}"
        for tasks in TOY_STEPS
    )
    return (
        f"How large: in {STEPS} steps on c + h x²/2, eta h about {ETA:g}, c = {', '.join(f'{c:g}' for c in REMAINS)}:"
        f" w eta h reaches {told['fast']}, {told['slow']}; above {TOO_LARGE:g} descent is unstable (the excess rises to"
        f" {max(numbers.values()):.2g} times its start). How quickly: on the toy, sigma 1 to 100, with lr"
        f" {S_LRS['slow']:g} and {S_LRS['fast']:g} of s, {toys}."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """The effective rate w eta h over the steps, by what remains of the loss, three seeds; decades off on the toy."""
    figure, axes = panels(3)
    for axis, (name, lr) in zip(axes, S_LRS.items(), strict=False):
        for c, color in zip(REMAINS, PALETTE, strict=False):
            for i, curve in enumerate(curves(measurements, f"{name}_{c:g}_curve")[:3]):
                steps = [STEPS * j / len(curve) for j in range(len(curve))]
                axis.plot(steps, curve, color=color, lw=0.6, label=None if i else f"c = {c:g}")
        axis.axhline(TOO_LARGE, color=GREY, lw=0.8, ls=":")
        axis.set(title=f"lr of s {lr:g}", xlabel="step", ylabel="w η h", yscale="log")
        axis.legend()
    for i, tasks in enumerate(TOY_STEPS):
        for name, color in (("slow", BLUE), ("fast", ORANGE)):
            off = scalars(measurements, f"T{tasks}_{name}_off")
            label = f"lr of s {S_LRS[name]:g}" if i == 0 else None
            axes[2].plot([i] * len(off), off, "o", color=color, alpha=0.6, label=label)
    axes[2].axhline(0, color=GREEN, lw=0.8, label="w = 1/(2L)")
    axes[2].set_xticks(range(len(TOY_STEPS)), [f"toy, T = {tasks}" for tasks in TOY_STEPS])
    axes[2].set(ylabel="largest |log10(2 w L)| at the end", xlim=(-0.5, len(TOY_STEPS) - 0.5))
    axes[2].legend()
    return figure


CLAIM = Claim(
    name="uncertainty_growth",
    source="003: notes on GradNorm, section “Notes”",
    sentence=(
        "Uncertainty weighting uses 1/L to adjust weight. --> this usually leads to weight too large too quickly,"
        " without normalization constraints (this seems not to be the case?)"
    ),
    threshold=(
        f"Too large is w·eta·h > {TOO_LARGE:g} at any of {STEPS} steps of gradient descent on c + h x²/2 with"
        f" eta·h near {ETA:g}, c from {REMAINS[0]:g} to {REMAINS[-1]:g}, Adam on s at lr"
        f" {' and '.join(f'{lr:g}' for lr in S_LRS.values())}. SUPPORTED if the 95 % interval of the largest lies above"
        f" it for every c and both lrs; PARTLY if for some; REFUTED if it lies below for all; INCONCLUSIVE otherwise."
        f" Told beside it, not judged: the decades between weights and 1/(2L) at the end of GradNorm's toy."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
