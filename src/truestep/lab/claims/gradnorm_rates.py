r"""GradNorm makes tasks train at similar rates, where a rate is what is left of a task's loss, L(t)/L(0).

On the toy of GradNorm's paper (`truestep.lab.toy`): tasks that differ in their scale sigma, from 1 to 100. Similar
rates are a small spread: the standard deviation over the tasks of :math:`\log L_i(t)/L_i(0)` on held-out samples.
Equal weights stand against GradNorm with the paper's alpha for its toy, .12, and with the 1.5 of its large experiment;
each loss divided by itself (`UnitNorm`), which knows nothing of rates, is told beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Final

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PINK, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._toy_methods import best, equal, gradnorm, unit
from truestep.lab.toy import Build, make_toy, scales

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS: Final = {2: 500, 10: 300}  # by number of tasks
LRS: Final = (4e-3, 8e-3)  # of Adam; each method at the one with the better mean progress

HALF: Final = 0.5  # of the spread under equal weights: what counts as similar
LESS: Final = 0.9  # of it: a method that cannot reach this does not act on the rates
UNEVEN: Final = 0.1  # spread under equal weights below which there is nothing to mend

METHODS: Final[dict[str, Build]] = {
    "equal": equal,
    "low": gradnorm(0.12),
    "high": gradnorm(1.5),
    "unit": unit,
}
TOLD: Final = {"equal": "equal weights", "low": "GradNorm, α .12", "high": "GradNorm, α 1.5", "unit": "unit-norm"}
COLORS: Final = {"equal": BLUE, "low": ORANGE, "high": PINK, "unit": GREEN}
GRADNORM: Final = ("low", "high")


def run(seed: int, device: str, *, steps: dict[int, int] = STEPS) -> Measurement:  # noqa: ARG001 (the toy is CPU's)
    """Spread of the rates, and mean progress, of each method at its best lr."""
    out: Measurement = {}
    for tasks, count in steps.items():
        toy = make_toy(scales(tasks), seed)
        for name, build in METHODS.items():
            course = best(toy, build, lrs=LRS, steps=count, seed=seed)
            out |= {f"T{tasks}_{name}_{key}": getattr(course, key) for key in ("spread", "mean", "last")}
    return out


def gaps(measurements: Sequence[Measurement]) -> dict[str, Interval]:
    """Logarithm of the spread under GradNorm over that under equal weights."""
    out: dict[str, Interval] = {}
    for tasks in STEPS:
        plain = scalars(measurements, f"T{tasks}_equal_spread")
        for name in GRADNORM:
            its = scalars(measurements, f"T{tasks}_{name}_spread")
            out[f"T{tasks}_{name}_log_spread"] = t_interval([log(i / p) for i, p in zip(its, plain, strict=True)])
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Halved everywhere, less somewhere, or not less anywhere."""
    gap = gaps(measurements)
    kept = {
        f"T{tasks}_{name}_{key}": t_interval(scalars(measurements, f"T{tasks}_{name}_{key}"))
        for tasks in STEPS
        for name in METHODS
        for key in ("spread", "mean")
    }
    if min(kept[f"T{tasks}_equal_spread"].low for tasks in STEPS) < UNEVEN:
        verdict = Verdict.INCONCLUSIVE
    elif all(interval.high < log(HALF) for interval in gap.values()):
        verdict = Verdict.SUPPORTED
    elif any(interval.high < 0 for interval in gap.values()):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.REFUTED if all(i.low > log(LESS) for i in gap.values()) else Verdict.INCONCLUSIVE
    return Judgement(verdict, reason(kept), gap | kept)


def reason(kept: dict[str, Interval]) -> str:
    """The sentence with the numbers."""
    told = "; ".join(
        f"T = {tasks}: "
        + ", ".join(
            f"{TOLD[name]} {kept[f'T{tasks}_{name}_spread'].mean:.2f} ({kept[f'T{tasks}_{name}_mean'].mean:.2f})"
            for name in METHODS
        )
        for tasks in STEPS
    )
    return (
        f"Spread over tasks of log L(t)/L(0) at the end of the toy, sigma 1 to 100, in brackets the mean L(t)/L(0),"
        f" each method at its best lr. {told}."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Where each task ended under each method, all seeds."""
    figure, axes = panels(len(STEPS))
    for axis, tasks in zip(axes, STEPS, strict=True):
        for name, color in COLORS.items():
            each = curves(measurements, f"T{tasks}_{name}_last")
            for i, last in enumerate(each):
                axis.plot(scales(tasks), last, "o-", color=color, ms=3, lw=0.6, label=None if i else TOLD[name])
        axis.axhline(1.0, color=GREY, lw=0.8, ls=":")
        axis.set(title=f"T = {tasks}", xscale="log", xlabel="sigma of the task", ylabel="test L(t)/L(0) at the end")
    axes[0].legend()
    return figure


CLAIM = Claim(
    name="gradnorm_rates",
    source="003: notes on GradNorm, section “Overall impression”",
    sentence="The balance is struck when tasks are training at similar rates as measured by the loss ratio L(t)/L(0).",
    threshold=(
        f"Spread over tasks of log L(t)/L(0) at the end of GradNorm's toy under GradNorm, over that under equal"
        f" weights, each at its best lr of {LRS[0]:g} and {LRS[1]:g}; T = 2 and 10, alpha .12 and 1.5. SUPPORTED if the"
        f" 95 % interval of the log ratio lies below log {HALF} in all four; PARTLY if it lies below 0 in one;"
        f" REFUTED if it lies above log {LESS} in all; INCONCLUSIVE between, or if the spread under equal weights is"
        f" not above {UNEVEN}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
