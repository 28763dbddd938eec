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


FACTS = ("weight", "counts", "kept", "lengths", "batch_norm", "loss")


def evidence(found: Comparison, k: int = 4, half: float | Comparison | None = None, **more: Any) -> Evidence:
    """A window of k micro-batches; `half`: half of it, or its factor; it has half of the counts and weight."""
    facts = {name: more.pop(name) for name in FACTS if name in more}
    halved = {**facts, "counts": tuple(n / 2 for n in facts.get("counts", ()))}
    halved["kept"] = tuple((kept / 2, counted / 2) for kept, counted in facts.get("kept", ()))
    halved["loss"] = more.pop("half_loss", facts.get("loss"))
    if "weight" in facts:
        halved["weight"] = facts["weight"] / 2
    of_half = multiple(half) if isinstance(half, float) else half
    short = None if of_half is None else Evidence(Window(k // 2, **halved), of_half, 1e-5)
    return Evidence(Window(k, **facts), found, more.pop("tolerance", 1e-5), more.pop("floor", 0.0), short, **more)


def fitted(*weights: float, outside: float = 0.0, mean: float = 1.0, off: float = 0.0) -> Fit:
    """A combination of micro-batches with these weights."""
    return Fit(weights or None, outside, mean, off)
