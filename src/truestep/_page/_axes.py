"""Axes of figures, in plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, inf, isfinite, log10
from typing import Any

Axis = dict[str, Any]


def lr_axis(lrs: Sequence[float]) -> Axis:
    """From 0, or logarithmic where all learning rates are positive and far apart."""
    finite = [lr for lr in lrs if isfinite(lr)]
    if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
        return log_axis(finite, least=2)
    return {"range": [0, 1.15 * max(finite)], "nticks": 4} if finite and max(finite) > 0 else {}


def loss_axis(losses: Sequence[float]) -> Axis:
    """Logarithmic where all losses are positive."""
    finite = [v for v in losses if isfinite(v)]
    return log_axis(finite) if finite and min(finite) > 0 else {}


def log_axis(values: Sequence[float], least: int = 4) -> Axis:
    """A logarithmic axis around the positive values, with ticks in plain numbers, `least` or more."""
    logs = [log10(v) for v in values if 0 < v < inf]
    if not logs:
        return {"type": "log"}
    pad = max(0.05 * (max(logs) - min(logs)), 0.06)
    low, high = min(logs) - pad, max(logs) + pad
    ticks = log_ticks(low, high, least)
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def log_ticks(low: float, high: float, least: int = 4) -> list[float]:
    """`least` or a few more round numbers from 10**low to 10**high.

    Example:
        >>> log_ticks(0.2, 2.1)
        [3.0, 10.0, 30.0, 100.0]
    """
    every = max(1, ceil((high - low) / 8))
    decades = [k for k in range(floor(low), ceil(high) + 1) if k % every == 0]
    for steps in ((1,), (1, 3), (1, 2, 5)):
        inside = [tick for k in decades for s in steps if low <= log10(tick := float(f"{s}e{k}")) <= high]
        if len(inside) >= least:
            return inside
    return _even_ticks(10**low, 10**high, least)


def _even_ticks(low: float, high: float, least: int) -> list[float]:
    """`least` or a few more multiples of 1, 2 or 5 times a power of ten: a short logarithmic axis is nearly even."""
    decade = floor(log10((high - low) / least))
    step = max(float(f"{s}e{decade}") for s in (1, 2, 5) if float(f"{s}e{decade}") * least <= high - low)
    return [float(f"{k * step:.12g}") for k in range(ceil(low / step), floor(high / step) + 1)]
