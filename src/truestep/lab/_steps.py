"""Steps that trainings need, compared over seeds: ratios of two arms, and a panel of dots for each activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import TYPE_CHECKING, Final

from truestep.lab._claim import Measurement, scalars
from truestep.lab._covariate_shift import REACHED, STEPS, course
from truestep.lab._figure import PALETTE, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEVER: Final = STEPS + 1


def measured(activation: str, variants: Sequence[str], seed: int, device: str, steps: int = STEPS) -> Measurement:
    """Steps of each variant at its best lr, and that lr (0 where none did it).

    Example:
        >>> measured("relu", ["BN"], 0, "cpu", steps=1)
        {'relu, BN': 2.0, 'relu, BN: lr': 0.0}
    """
    out: Measurement = {}
    for variant in variants:
        found = course(activation, variant, seed, device=device, steps=steps)
        out[f"{activation}, {variant}"] = float(found.steps)
        out[f"{activation}, {variant}: lr"] = found.lr if found.steps <= steps else 0.0
    return out


def logs(measurements: Sequence[Measurement], slow: str, fast: str) -> list[float]:
    """Log of the ratio of two arms' steps, by seed.

    Example:
        >>> logs([{"a": 20.0, "b": 20.0}], "a", "b")
        [0.0]
    """
    pairs = zip(scalars(measurements, slow), scalars(measurements, fast), strict=True)
    return [log(a / b) for a, b in pairs]


def ratio(measurements: Sequence[Measurement], slow: str, fast: str) -> Interval:
    """Interval of the log of the ratio of two arms' steps, paired by seed."""
    return t_interval(logs(measurements, slow, fast))


def times(interval: Interval) -> str:
    """An interval of logs as factors.

    Example:
        >>> times(Interval(0.0, -0.1, 0.1))
        '1.00 [0.90, 1.11]'
    """
    return f"{exp(interval.mean):.2f} [{exp(interval.low):.2f}, {exp(interval.high):.2f}]"


def mean_steps(measurements: Sequence[Measurement], arm: str) -> str:
    """Geometric mean of the steps over seeds; said where a seed never got there.

    Example:
        >>> mean_steps([{"a": 10.0}, {"a": 40.0}], "a"), mean_steps([{"a": 301.0}, {"a": 301.0}], "a")
        ('20', 'over 300')
    """
    found = scalars(measurements, arm)
    mean = exp(sum(map(log, found)) / len(found))
    if all(steps >= NEVER for steps in found):
        return f"over {STEPS}"
    return f"{mean:.0f}" + (" or more" if max(found) >= NEVER else "")


def plot_steps(measurements: Sequence[Measurement], arms: Mapping[str, Sequence[str]]) -> Figure:
    """A panel for each activation, a column of dots for each of its variants, a dot for each seed.

    Args:
        measurements: As `measured` gives them.
        arms: Variants by activation.
    """
    figure, axes = panels(len(arms))
    for axis, (activation, variants) in zip(axes, arms.items(), strict=True):
        for i, variant in enumerate(variants):
            found = scalars(measurements, f"{activation}, {variant}")
            spread = [i + 0.1 * (j / max(len(found) - 1, 1) - 0.5) for j in range(len(found))]
            axis.plot(spread, found, "o", ms=4, alpha=0.7, color=PALETTE[i % len(PALETTE)])
        axis.axhline(NEVER, color="black", lw=0.5, ls=":")
        axis.set(yscale="log", title=activation, ylabel=f"steps until the loss is {REACHED}; dotted: never")
        axis.set_xticks(range(len(variants)), variants, rotation=15)
    return figure
