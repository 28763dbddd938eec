"""Evidence typed in by hand."""

from __future__ import annotations

from typing import Any

from truestep.loss.accumulation._comparison import Comparison, Fit
from truestep.loss.accumulation._evidence import Evidence, Window


def multiple(factor: float) -> Comparison:
    """A gradient that is this multiple of its reference."""
    return Comparison(abs(factor), 1.0, factor, 1.0 if factor > 0 else -1.0, abs(factor - 1), 0.0)


def turned(by: float, factor: float = 1.0) -> Comparison:
    """A gradient that points elsewhere: `by` is the sine of the angle."""
    norm = factor / (1 - by**2) ** 0.5
    return Comparison(norm, 1.0, factor, factor / norm, ((factor - 1) ** 2 + (norm * by) ** 2) ** 0.5, by)


def evidence(found: Comparison, k: int = 4, half: float | None = None, **more: Any) -> Evidence:
    """A window of k micro-batches; `half` is the factor of half of it, which has half of its counts and weight."""
    facts = {name: more.pop(name) for name in ("weight", "counts", "lengths", "batch_norm") if name in more}
    halved = {**facts, "counts": tuple(n / 2 for n in facts.get("counts", ()))}
    if "weight" in facts:
        halved["weight"] = facts["weight"] / 2
    short = None if half is None else Evidence(Window(k // 2, **halved), multiple(half), 1e-5)
    return Evidence(Window(k, **facts), found, more.pop("tolerance", 1e-5), more.pop("floor", 0.0), short, **more)


def fitted(*weights: float, outside: float = 0.0, mean: float = 1.0, off: float = 0.0) -> Fit:
    """A combination of micro-batches with these weights."""
    return Fit(weights or None, outside, mean, off)
