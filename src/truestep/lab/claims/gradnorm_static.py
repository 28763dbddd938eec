r"""Static weights taken from a GradNorm run, and the best static weights that a grid search finds.

Two tasks of GradNorm's toy (`truestep.lab.toy`), so that static weights are one number: the ratio of the first task's
weight to the second's. Once the scales are 1 and 3, once 1 and 100, as in the paper's toy; the tasks' losses differ by
the square of that. The grid steps by half a decade. A GradNorm run's mean weights are held fixed in a second training
from the same start, and compared with the grid's best ratio in decades and in the mean L(t)/L(0).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, log10
from typing import TYPE_CHECKING, Final

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._toy_methods import fixed, gradnorm
from truestep.lab.toy import make_toy, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRIDS: Final[dict[float, Sequence[float]]] = {  # sigma of the second task; decades of the first's weight over its own
    3.0: tuple(k / 2 for k in range(-2, 7)),
    100.0: tuple(k / 2 for k in range(11)),
}
STEPS: Final = 400
LR: Final = 4e-3  # of Adam

NEAR: Final = 0.5  # decades, the grid's step
AS_GOOD: Final = 1.05  # mean L(t)/L(0) over another's, up to which one does as well


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:  # noqa: ARG001 (the toy is CPU's)
    """For each pair of scales: the grid's curve, GradNorm's mean, its static ratio in decades, and the retraining."""
    out: Measurement = {}
    for sigma, grid in GRIDS.items():
        toy = make_toy([1.0, sigma], seed)
        found = [
            train(toy, fixed({"f0": 10**decades, "f1": 1.0}), lr=LR, steps=steps, seed=seed).mean for decades in grid
        ]
        dynamic = train(toy, gradnorm(), lr=LR, steps=steps, seed=seed)
        again = train(toy, fixed(dynamic.static), lr=LR, steps=steps, seed=seed)
        static = log10(dynamic.static["f0"] / dynamic.static["f1"])
        key = f"s{sigma:.0f}"
        out |= {f"{key}_grid": found, f"{key}_dynamic": dynamic.mean, f"{key}_static": again.mean}
        out |= {f"{key}_decades": static, f"{key}_off": static - grid[found.index(min(found))]}
        out |= {f"{key}_log_best": log(again.mean / min(found)), f"{key}_log_dynamic": log(again.mean / dynamic.mean)}
    return out


def close(interval: dict[str, Interval], sigma: float) -> bool | None:
    """Whether the static weights lie near the grid's best and do as well; None where that cannot be told."""
    off, loss = interval[f"s{sigma:.0f}_off"], interval[f"s{sigma:.0f}_log_best"]
    if off.low >= -NEAR and off.high <= NEAR and loss.high < log(AS_GOOD):
        return True
    return False if off.low > NEAR or off.high < -NEAR or loss.low > log(AS_GOOD) else None


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Close for both pairs of scales, for one, for none."""
    names = [name for name in measurements[0] if not isinstance(measurements[0][name], list)]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    found = [close(interval, sigma) for sigma in GRIDS]
    if all(found):
        verdict = Verdict.SUPPORTED
    elif any(found):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE if None in found else Verdict.REFUTED
    return Judgement(verdict, reason(measurements, interval), interval)


def reason(measurements: Sequence[Measurement], interval: dict[str, Interval]) -> str:
    """The sentence with the numbers."""
    parts: list[str] = []
    for sigma in GRIDS:
        key = f"s{sigma:.0f}"
        one = {name.removeprefix(f"{key}_"): i.mean for name, i in interval.items() if name.startswith(f"{key}_")}
        plain = with_equal(measurements, sigma)
        parts.append(
            f"sigma 1 and {sigma:.0f}: GradNorm's mean weights are {10 ** one['decades']:.3g} to 1, the grid's best"
            f" {10 ** (one['decades'] - one['off']):.3g} to 1; mean L(t)/L(0) is {one['static']:.3f} retrained with"
            f" them, {one['dynamic']:.3f} in the run itself, {one['static'] * exp(-one['log_best']):.3f} at"
            f" the grid's best, {plain:.3f} with equal weights"
        )
    told = ". ".join(part[0].upper() + part[1:] for part in parts)
    return f"{told}."


def with_equal(measurements: Sequence[Measurement], sigma: float) -> float:
    """Mean over seeds of the mean progress with equal weights, a point of the grid."""
    place = GRIDS[sigma].index(0.0)
    found = [grid[place] for grid in curves(measurements, f"s{sigma:.0f}_grid")]
    return sum(found) / len(found)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Mean progress against the ratio of static weights, with GradNorm's own."""
    figure, axes = panels(len(GRIDS))
    for axis, sigma in zip(axes, GRIDS, strict=True):
        key = f"s{sigma:.0f}"
        for i, y in enumerate(curves(measurements, f"{key}_grid")):
            axis.plot([10**d for d in GRIDS[sigma]], y, color=BLUE, lw=0.8, label=None if i else "static weights, grid")
        own = [10**d for d in scalars(measurements, f"{key}_decades")]
        axis.plot(own, scalars(measurements, f"{key}_static"), "o", color=ORANGE, label="GradNorm's, retrained")
        axis.plot(own, scalars(measurements, f"{key}_dynamic"), "s", color=GREEN, ms=4, label="GradNorm itself")
        axis.axvline(sigma**2, color=GREY, lw=0.8, ls=":", label="1/σ²")
        axis.set(title=f"sigma 1 and {sigma:.0f}", xscale="log", xlabel="weight of the first task over the second's")
        axis.set(ylabel="mean test L(t)/L(0)")
    axes[0].legend()
    return figure


CLAIM = Claim(
    name="gradnorm_static",
    source="003: notes on GradNorm, section “Technical details”",
    sentence=(
        "using static weight to retrain the model from scratch. These values lie closely with the optimal"
        " grid-searched weights."
    ),
    threshold=(
        f"Two tasks of GradNorm's toy, sigma {', or '.join(f'1 and {sigma:.0f}' for sigma in GRIDS)}; alpha .12, Adam,"
        f" lr {LR:g}."
        f" GradNorm's mean weights are close if their ratio lies within {NEAR} decades of the grid's best (95 %"
        f" interval) and the retraining's mean L(t)/L(0) is at most {AS_GOOD} times the best of the grid (interval of"
        f" the log ratio). SUPPORTED if close for both pairs; PARTLY if for one; REFUTED if one of the two intervals"
        f" lies outside for both pairs; INCONCLUSIVE between."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
