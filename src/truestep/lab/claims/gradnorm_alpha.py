r"""How much GradNorm's alpha matters between 0 and 3.

Alpha is the power of a task's relative loss ratio that its weighted gradient norm is to follow. On the toy of
GradNorm's paper (`truestep.lab.toy`), with 2 and with 10 tasks, five values of alpha share start, batches and lr; what
counts is the mean over tasks of L(t)/L(0) at the end. Equal weights say how much there is to gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import TYPE_CHECKING, Final

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._toy_methods import equal, gradnorm
from truestep.lab.toy import make_toy, scales, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHAS: Final = (0.12, 0.5, 1.0, 1.5, 3.0)
STEPS: Final = {2: 500, 10: 300}  # by number of tasks
LR: Final = 4e-3  # of Adam

LITTLE: Final = 1.1  # largest over smallest mean progress that counts as insensitive


def run(seed: int, device: str, *, steps: dict[int, int] = STEPS) -> Measurement:  # noqa: ARG001 (the toy is CPU's)
    """Mean progress at each alpha and with equal weights; log of the largest over the smallest, and of the gain."""
    out: Measurement = {}
    for tasks, count in steps.items():
        toy = make_toy(scales(tasks), seed)
        found = [train(toy, gradnorm(alpha), lr=LR, steps=count, seed=seed).mean for alpha in ALPHAS]
        plain = train(toy, equal, lr=LR, steps=count, seed=seed).mean
        out |= {f"T{tasks}_means": found, f"T{tasks}_equal": plain, f"T{tasks}_log_range": log(max(found) / min(found))}
        out |= {f"T{tasks}_log_worst": log(max(found) / plain), f"T{tasks}_log_best": log(min(found) / plain)}
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The range over alpha against `LITTLE`; then whether every alpha beats equal weights."""
    names = [name for name in measurements[0] if not isinstance(measurements[0][name], list)]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    little = [interval[f"T{tasks}_log_range"].high < log(LITTLE) for tasks in STEPS]
    much = [interval[f"T{tasks}_log_range"].low > log(LITTLE) for tasks in STEPS]
    better = [interval[f"T{tasks}_log_worst"].high < 0 for tasks in STEPS]
    if all(little):
        verdict = Verdict.SUPPORTED
    elif any(little) or all(better):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.REFUTED if all(much) else Verdict.INCONCLUSIVE
    return Judgement(verdict, reason(measurements, interval), interval)


def reason(measurements: Sequence[Measurement], interval: dict[str, Interval]) -> str:
    """The sentence with the numbers."""
    parts: list[str] = []
    for tasks in STEPS:
        means = [sum(at) / len(measurements) for at in zip(*curves(measurements, f"T{tasks}_means"), strict=True)]
        each = ", ".join(f"{mean:.3f}" for mean in means)
        parts.append(
            f"T = {tasks}: {each}, with equal weights {interval[f'T{tasks}_equal'].mean:.3f}; the worst alpha of a seed"
            f" is {100 * (exp(interval[f'T{tasks}_log_range'].mean) - 1):.0f} % above its best"
        )
    return f"Mean L(t)/L(0) at alpha {', '.join(f'{a:g}' for a in ALPHAS)}. {'. '.join(parts)}."


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Mean progress against alpha; equal weights as dots at the side."""
    figure, axes = panels(len(STEPS))
    for axis, tasks in zip(axes, STEPS, strict=True):
        for i, means in enumerate(curves(measurements, f"T{tasks}_means")):
            axis.plot(ALPHAS, means, "o-", color=ORANGE, ms=3, lw=0.8, label=None if i else "GradNorm")
        for i, mean in enumerate(scalars(measurements, f"T{tasks}_equal")):
            axis.axhline(mean, color=BLUE, lw=0.8, ls="--", label=None if i else "equal weights")
        axis.axhline(1.0, color=GREY, lw=0.8, ls=":")
        axis.set(title=f"T = {tasks}", xlabel="alpha", ylabel="mean test L(t)/L(0) at the end")
        axis.legend()
    return figure


CLAIM = Claim(
    name="gradnorm_alpha",
    source="003: notes on GradNorm, section “Technical details”",
    sentence="The overall performance is relatively insensitive to the chance in α ∈ (0, 3).",
    threshold=(
        f"Mean L(t)/L(0) at the end of GradNorm's toy, Adam, lr {LR:g}, alpha {', '.join(f'{a:g}' for a in ALPHAS)}:"
        f" largest over smallest of a seed. SUPPORTED if the 95 % interval of its log lies below log {LITTLE} for T = 2"
        f" and 10; PARTLY if for one of them, or if every alpha is better than equal weights at both (interval of the"
        f" worst one's log ratio below 0); REFUTED if it lies above for both and that fails; INCONCLUSIVE otherwise."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
