r"""What GradNorm's alpha = 0 gives: not equal weights but equal gradient norms.

With alpha = 0 the rates drop out of :math:`w_i g_i \propto r_i^\alpha`, and the weights are :math:`w_i \propto 1/g_i`.
They are average weights, 1 each, only where the tasks' gradient norms are equal by themselves. So: the toy of
GradNorm's paper with ten tasks of scales from 1 to 100, and with ten of scale 1. The weights' sum is T under any alpha,
so that their mean being 1 says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._toy_methods import equal, gradnorm
from truestep.lab.toy import Build, Course, make_toy, scales, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS: Final = 10
STEPS: Final = 200
LR: Final = 4e-3  # of Adam

ALIKE: Final = 1.25  # largest over smallest that counts as equal

SETTINGS: Final = {"spread": "sigma 1 to 100", "same": "sigma 1 for all"}
METHODS: Final[dict[str, Build]] = {
    "zero": gradnorm(0.0),
    "paper": gradnorm(0.0, "gradient"),
    "half": gradnorm(1.5),
    "equal": equal,
}


def ratio(x: Tensor) -> float:
    """Log of the largest over the smallest task's geometric mean over the second half of the looks; x [tasks, looks].

    Example:
        >>> ratio(torch.tensor([[9.0, 1.0], [9.0, 10.0]]))
        2.302585092994046
    """
    mean = x.double()[:, x.shape[1] // 2 :].log().mean(1)
    return (mean.max() - mean.min()).item()


def columns(course: Course) -> tuple[Tensor, Tensor]:
    """Weights, and weighted gradient norms, of tasks and looks."""
    weights = torch.tensor(list(course.weights.values()), dtype=torch.float64)
    norms = torch.tensor(list(course.norms.values()), dtype=torch.float64)
    return weights, weights * norms


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:  # noqa: ARG001 (the toy is CPU's)
    """Unevenness of weights and of weighted norms under each method, and the mean progress."""
    out: Measurement = {}
    for setting in SETTINGS:
        toy = make_toy(scales(TASKS) if setting == "spread" else [1.0] * TASKS, seed)
        for name, build in METHODS.items():
            course = train(toy, build, lr=LR, steps=steps, seed=seed)
            key = f"{setting}_{name}"
            out[f"{key}_mean"] = course.mean
            if name == "equal":
                continue  # its norms are not measured
            weights, weighted = columns(course)
            out |= {f"{key}_log_weights": ratio(weights), f"{key}_log_norms": ratio(weighted)}
            out[f"{key}_weights"] = weights[:, -1].tolist()
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Equal weights whatever the tasks; only among tasks that are alike; not even there."""
    names = [name for name in measurements[0] if not isinstance(measurements[0][name], list)]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    spread, same = (interval[f"{setting}_zero_log_weights"] for setting in SETTINGS)
    if spread.high < log(ALIKE) and same.high < log(ALIKE):
        verdict = Verdict.SUPPORTED
    elif spread.low > log(ALIKE) and same.high < log(ALIKE):
        verdict = Verdict.PARTLY
    else:
        refuted = spread.low > log(ALIKE) and same.low > log(ALIKE)
        verdict = Verdict.REFUTED if refuted else Verdict.INCONCLUSIVE
    return Judgement(verdict, reason(interval), interval)


def reason(interval: dict[str, Interval]) -> str:
    """The sentence with the numbers."""
    factor = {name: torch.tensor(i.mean).exp().item() for name, i in interval.items() if "_log_" in name}
    mean = {name: i.mean for name, i in interval.items() if name.endswith("_mean")}
    return (
        f"With alpha 0, largest over smallest of {TASKS} tasks: weights {factor['spread_zero_log_weights']:.3g} where"
        f" sigma goes from 1 to 100, {factor['same_zero_log_weights']:.2f} where it is 1 for all; weighted gradient"
        f" norms {factor['spread_zero_log_norms']:.2f} and {factor['same_zero_log_norms']:.2f} (the paper's solver"
        f" after {STEPS} steps: weights {factor['spread_paper_log_weights']:.3g}, norms"
        f" {factor['spread_paper_log_norms']:.2f}). So it is the norms that are average, w ∝ 1/g. Mean L(t)/L(0) at"
        f" sigma 1 to 100: alpha 0 {mean['spread_zero_mean']:.3f}, equal weights {mean['spread_equal_mean']:.3f},"
        f" alpha 1.5 {mean['spread_half_mean']:.3f}."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Weights at the end by the tasks' scale, and where all scales are 1."""
    figure, axes = panels(2)
    for axis, (setting, title) in zip(axes, SETTINGS.items(), strict=True):
        places = scales(TASKS) if setting == "spread" else list(range(TASKS))
        for name, color in (("zero", ORANGE), ("half", BLUE)):
            for i, weights in enumerate(curves(measurements, f"{setting}_{name}_weights")):
                label = None if i else f"alpha {'0' if name == 'zero' else '1.5'}"
                axis.plot(places, weights, "o-", color=color, ms=3, lw=0.6, label=label)
        axis.axhline(1.0, color=GREY, lw=0.8, ls=":", label="average weight")
        axis.set(title=title, yscale="log", ylabel="weight at the end")
    axes[0].set(xscale="log", xlabel="sigma of the task")
    axes[1].set(xlabel="task")
    axes[0].legend()
    return figure


CLAIM = Claim(
    name="gradnorm_alpha_zero",
    source="003: notes on GradNorm, section “Technical details”",
    sentence="(0 means average weight)",
    threshold=(
        f"Largest over smallest weight of ten tasks of GradNorm's toy under alpha 0, geometric mean over the second"
        f" half of {STEPS} steps; up to {ALIKE} counts as average weights. SUPPORTED if the 95 % interval of its log"
        f" lies below log {ALIKE} both with sigma 1 to 100 and with sigma 1 for all; PARTLY if below with sigma 1 for"
        f" all and above otherwise; REFUTED if above in both; INCONCLUSIVE if an interval crosses it."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
