"""Axes that all runs of a page share, so that panels beside each other can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, log10

from truestep._page import Axis, log_axis, lr_axis
from truestep.monitor.report._queries import Taken


@dataclass(frozen=True, slots=True)
class Axes:
    """Type, range and ticks by what is shown; `heat` are the ends of the colour scale, log10 of mrad.

    `label` asks for room at the right, for the value of a predicted equilibrium.
    """

    steps: tuple[float, float]
    lr: Axis
    angle: Axis
    effective: Axis
    norm: Axis
    growth: Axis
    heat: tuple[float, float]
    label: bool


def axes_for(
    lines: Sequence[Taken], shares: Sequence[Taken], heat: Sequence[Taken], lrs: Sequence[float], last: int
) -> Axes:
    """Axes for what the lines, the shares of growth and the heat maps of all runs hold, up to step `last`."""
    angles = [1e3 * t.angle for t in lines]
    targets = [1e3 * t.predicted for t in lines]
    return Axes(
        steps=(-0.5, last + 0.5),
        lr=lr_axis(lrs),
        angle=log_axis([*angles, *targets]),
        effective=log_axis([t.effective_lr for t in lines]),
        norm=log_axis([t.w for t in lines]),
        growth=cut_axis([100 * v for t in shares for v in (t.radial, t.growth)]),
        heat=heat_ends([1e3 * t.angle for t in heat]),
        label=any(map(isfinite, targets)),
    )


def heat_ends(angles: Sequence[float]) -> tuple[float, float]:
    """Ends of a logarithmic colour scale, which leave the outer hundredths of the values in its outermost colours."""
    logs = sorted(log10(v) for v in angles if 0 < v < inf)
    if not logs:
        return -1.0, 1.0
    low, high = _quantile(logs, 0.01), _quantile(logs, 0.99)
    return (low, high) if high - low > 0.3 else ((low + high) / 2 - 0.3, (low + high) / 2 + 0.3)


def cut_axis(values: Sequence[float]) -> Axis:
    """From the 5th to the 95th hundredth of the values: the first steps of a run would flatten the rest."""
    finite = sorted(v for v in values if isfinite(v))
    if not finite:
        return {}
    low, high = _quantile(finite, 0.05), _quantile(finite, 0.95)
    pad = 0.15 * (high - low) or abs(high) or 1.0
    return {"range": [low - pad, high + pad]}


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]
