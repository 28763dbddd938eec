"""Rules that scale the lr with the batch size, put to two tests: the same training curve, and the best lr.

The first test asks what the rule promises: trained with the scaled lr at k times the batch, is the loss after the same
number of samples the same? The second asks what its user wants: from the lr tuned at the base batch, how far is the
rule's lr from the best one at the larger batch?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from truestep.lab._batch_size import Build, loss_after, slope
from truestep.lab._claim import Judgement, Measurement, Verdict, scalars
from truestep.lab._digits import Digits
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PINK, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE: Final = 8  # the batch size at which the lr is given
FACTORS: Final = (2, 4, 8, 16, 32)
EPOCHS: Final = (2, 5, 10)
POWERS: Final = {"const": 0.0, "sqrt": 0.5, "linear": 1.0}
MORE: Final = (0.25, 0.75, 1.25)  # powers besides, at one factor, to find the one that keeps the curve
CENTRE: Final = 8  # that factor
TUNED_FACTORS: Final = (4, 16, 64)  # powers of four: the square-root rule stays on a grid of powers of two

SAME: Final = 0.1  # |log(loss / loss at the base)| after the last epoch that counts as the same training

Rule: TypeAlias = Callable[[float, int], Build]  # lr at the base and k to the optimizer at k times the batch
COLORS: Final = {"const": GREY, "sqrt": GREEN, "linear": ORANGE, "sde": PINK}


@dataclass(frozen=True, slots=True)
class Setup:
    """An optimizer to be scaled.

    Args:
        build: Makes the optimizer at an lr.
        lr: The small lr of the first test, at the base batch.
        grid: Exponents of 2, the lrs of the second test, for every batch size.
        rules: Rules besides lr · k^p, by name.
    """

    build: Callable[[float], Build]
    lr: float
    grid: Sequence[int]
    rules: dict[str, Rule]


def power_rule(setup: Setup, power: float) -> Rule:
    """The rule lr · k^power."""
    return lambda lr, k: setup.build(lr * k**power)


def curve_gaps(setup: Setup, data: Digits, seed: int, epochs: tuple[int, ...], factors: Sequence[int]) -> Measurement:
    """log(loss / base loss) at the last epoch by rule and factor; all epochs as a curve; the power that gives 0."""
    base = loss_after(setup.build(setup.lr), data, seed, batch_size=BASE, epochs=epochs)

    def gaps(rule: Rule, k: int) -> list[float]:
        scaled = loss_after(rule(setup.lr, k), data, seed, batch_size=k * BASE, epochs=epochs)
        return [log(loss / start) for loss, start in zip(scaled, base, strict=True)]

    rules = {name: power_rule(setup, power) for name, power in POWERS.items()} | setup.rules
    out: Measurement = {}
    for name, rule in rules.items():
        for k in factors:
            out[f"{name}_curve_{k}"] = found = gaps(rule, k)
            out[f"{name}_gap_{k}"] = found[-1]
    at_centre = {power: gaps(power_rule(setup, power), CENTRE)[-1] for power in (*POWERS.values(), *MORE)}
    return out | {"matching_power": crossing(dict(sorted(at_centre.items())))}


def crossing(values: dict[float, float]) -> float:
    """Where a falling row of values, linear in between, first is 0; the nearer end if it nowhere is.

    Example:
        >>> crossing({0.0: 2.0, 0.5: 1.0, 1.0: -1.0})
        0.75
    """
    points = list(values.items())
    if points[0][1] <= 0:
        return points[0][0]
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 <= 0:
            return x0 + (x1 - x0) * y0 / (y0 - y1)
    return points[-1][0]


def tuned_regrets(
    setup: Setup, data: Digits, seed: int, epochs: tuple[int, ...], factors: Sequence[int]
) -> Measurement:
    """log(loss at the rule's lr / loss at the best lr) by rule and factor, from the best lr at the base."""
    out: Measurement = {}
    loss = {
        k: {i: loss_after(setup.build(2.0**i), data, seed, batch_size=k * BASE, epochs=epochs)[-1] for i in setup.grid}
        for k in (1, *factors)
    }
    best = {k: min(row, key=row.__getitem__) for k, row in loss.items()}
    for k in factors:
        for name, power in POWERS.items():
            i = best[1] + round(power * (k.bit_length() - 1))
            out[f"{name}_regret_{k}"] = log(
                loss[k][min(i, max(setup.grid))] / loss[k][best[k]]
            )  # beyond the grid: its end
    for k, i in best.items():
        out[f"best_{k}"] = 2.0**i
    return out | {"best_slope": slope({k: 2.0**i for k, i in best.items()})}


def run_rules(
    setup: Setup,
    data: Digits,
    seed: int,
    *,
    epochs: tuple[int, ...] = EPOCHS,
    factors: Sequence[int] = FACTORS,
    tuned_factors: Sequence[int] = TUNED_FACTORS,
) -> Measurement:
    """Both tests."""
    gaps = curve_gaps(setup, data, seed, epochs, factors)
    return gaps | tuned_regrets(setup, data, seed, epochs, tuned_factors)


def linear_verdict(linear: dict[int, Interval], regret: Interval) -> Verdict:
    """The threshold of `THRESHOLD`, from the linear rule's gaps by factor and its lead over sqrt when tuned.

    Args:
        linear: log(loss / base loss) by factor.
        regret: Regret of the linear less that of the square-root rule at the first tuned factor.
    """

    def same(k: int) -> bool:
        return linear[k].low >= -SAME and linear[k].high <= SAME

    def differs(k: int) -> bool:
        return linear[k].low > SAME or linear[k].high < -SAME

    if all(same(k) for k in FACTORS) and regret.high < 0:
        return Verdict.SUPPORTED
    if same(CENTRE):
        return Verdict.PARTLY
    return Verdict.REFUTED if differs(CENTRE) else Verdict.INCONCLUSIVE


THRESHOLD: Final = (
    f"digits, batch {BASE} to {max(FACTORS) * BASE}, mean reduction; g = log of the training loss after"
    f" {EPOCHS[-1]} epochs over that at the base batch. SUPPORTED if the linear rule keeps the 95 % interval of g"
    f" within ±{SAME} at every factor, and from the lr tuned at batch {BASE} loses less against the best lr at"
    f" {TUNED_FACTORS[0]} times the batch than the square-root rule (95 % interval of the difference); PARTLY if it"
    f" keeps g within ±{SAME} at factor {CENTRE} only; REFUTED if g is outside there; INCONCLUSIVE if it crosses."
)


def judge_rules(measurements: Sequence[Measurement], told: Callable[[dict[str, Interval]], str]) -> Judgement:
    """Verdict on the linear rule; `told` writes the reason from the intervals."""
    names = [name for name, value in measurements[0].items() if not isinstance(value, list)]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    first = TUNED_FACTORS[0]
    pairs = zip(*(scalars(measurements, f"{name}_regret_{first}") for name in ("linear", "sqrt")), strict=True)
    interval["linear_less_sqrt"] = t_interval([linear - sqrt for linear, sqrt in pairs])
    verdict = linear_verdict({k: interval[f"linear_gap_{k}"] for k in FACTORS}, interval["linear_less_sqrt"])
    return Judgement(verdict, told(interval), interval)


def plot_rules(measurements: Sequence[Measurement], rules: Sequence[str]) -> Figure:
    """Left the gap against the factor, a line a rule; right the best lr against the batch, and what the rules say."""
    figure, (left, right) = panels(2)
    for name in rules:
        _plot_gap(left, measurements, name)
    left.axhspan(-SAME, SAME, color=GREY, alpha=0.2, lw=0, label="counts as the same")
    left.set(xscale="log", xticks=FACTORS, xticklabels=[str(k) for k in FACTORS], xlabel=f"batch size / {BASE}")
    left.minorticks_off()
    left.set(
        ylabel=f"log(loss / loss at batch {BASE}), {EPOCHS[-1]} epochs", title="small lr: is it the same training?"
    )
    factors = (1, *TUNED_FACTORS)
    sizes = [k * BASE for k in factors]
    best = [sum(log(x) for x in scalars(measurements, f"best_{k}")) / len(measurements) for k in factors]
    for name, power in POWERS.items():
        line = [exp(best[0]) * k**power for k in factors]
        right.plot(sizes, line, color=COLORS[name], lw=1, ls="--", label=name)
    for i, m in enumerate(measurements):
        values = [x for k in factors for x in scalars([m], f"best_{k}")]
        right.plot(
            sizes, values, "o", color=BLUE, ms=5, alpha=0.4, label="best of the grid, a seed" if i == 0 else None
        )
    right.set(xscale="log", yscale="log", xticks=sizes, xticklabels=[str(size) for size in sizes])
    right.minorticks_off()
    right.set(xlabel="batch size", ylabel="lr (mean reduction)", title="tuned lr, and the rules from batch 8")
    for axis in (left, right):
        axis.legend()
        axis.grid(color=GREY, alpha=0.2, lw=0.5)
    return figure


def _plot_gap(axis: Any, measurements: Sequence[Measurement], name: str) -> None:
    """Mean and 95 % interval of a rule's gaps."""
    gaps = [t_interval(scalars(measurements, f"{name}_gap_{k}")) for k in FACTORS]
    means = [gap.mean for gap in gaps]
    bars = [[gap.mean - gap.low for gap in gaps], [gap.high - gap.mean for gap in gaps]]
    axis.errorbar(FACTORS, means, bars, color=COLORS[name], marker="o", ms=3, lw=1, capsize=2, label=name)
