"""One line per interval: the step really taken, in numbers with units, and what watching cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import isnan, nan

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core import Step
from truestep.invariance import angular_update


class Console:
    """Prints a line about the latest recorded step, at most one per `interval` seconds.

    Args:
        interval: Seconds between lines; None prints nothing.
        write: Takes the line; `print` by default.
    """

    def __init__(self, interval: float | None, write: Callable[[str], object] = print) -> None:
        self._interval, self._write = interval, write
        self._next = time.monotonic() + min(interval or 0.0, 5.0)  # a first sign of life after five seconds
        self._first: dict[str, dict[str, float]] = {}

    def step(self, step: Step, loss: float | Tensor | None, period: int, cost: float) -> None:
        """Take note of a recorded step and print if the interval is over."""
        if self._interval is None:
            return
        if step.optimizer not in self._first:
            self._first[step.optimizer] = _effective_lr(step)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval
        ratio = _median_ratio(_effective_lr(step), self._first[step.optimizer])
        self._write(line(step, None if loss is None else float(loss), ratio, period, cost))


def line(step: Step, loss: float | None, eff_lr_ratio: float, period: int, cost: float) -> str:
    """The console line of a recorded step.

    Args:
        step: The step.
        loss: Latest mean loss; None where none was logged.
        eff_lr_ratio: Median over the blocks of effective lr now over effective lr at the start.
        period: Steps between recorded steps.
        cost: Share of the wall time that watching cost so far.
    """
    angle = _positive(angular_update(step.took))
    parts = [f"truestep {step.optimizer} step {step.index}"]
    if loss is not None:
        parts.append(f"loss {loss:.4g}")
    if step.skipped:
        parts.append("skipped")
    elif angle.numel():
        spread = float(angle.max() / angle.min())
        parts.append(
            f"turned {1e3 * float(angle.median()):.3g} mrad (median of {angle.numel()} blocks, spread x{spread:.2g})"
        )
    if not isnan(eff_lr_ratio):
        parts.append(f"effective lr {eff_lr_ratio:.3g} of its start")
    parts += [f"recorded 1 in {period}", f"watching cost {100 * cost:.2g} %"]
    return " | ".join(parts)


def _positive(value: Float64[Tensor, " blocks"]) -> Float64[Tensor, " moved"]:
    """Finite positive values."""
    return value[torch.isfinite(value) & (value > 0)]


def _effective_lr(step: Step) -> dict[str, float]:
    values = (step.asked.lr / step.took.ww).tolist()
    return dict(zip(step.names, values, strict=True))


def _median_ratio(now: Mapping[str, float], start: Mapping[str, float]) -> float:
    ratios = torch.tensor(
        [value / start[name] for name, value in now.items() if start.get(name)], dtype=torch.float64, device="cpu"
    )
    ratios = ratios[torch.isfinite(ratios)]
    return float(ratios.median()) if ratios.numel() else nan
