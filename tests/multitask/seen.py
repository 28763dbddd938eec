"""Readings typed in by hand: what a test leaves out is nan, every task is active, and every weight is 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from truestep.multitask._rule import PerTask, Readings

Row = Sequence[float] | Tensor | None


def seen(
    losses: Row = None,
    ratios: Row = None,
    norms: Row = None,
    active: Sequence[bool] | Tensor | None = None,
    weights: Row = None,
    gram: Any = None,
    kpis: Row = None,
) -> Readings:
    """The `Readings` of as many tasks as the longest of the rows given has entries."""
    given = (losses, ratios, norms, active, weights, gram, kpis)
    tasks = max(len(row) for row in given if row is not None)
    mask = torch.ones(tasks, dtype=torch.bool) if active is None else torch.as_tensor(active, dtype=torch.bool)
    return Readings(
        losses=_row(losses, tasks),
        ratios=_row(ratios, tasks),
        norms=_row(norms, tasks),
        active=mask,
        weights=_row(weights, tasks, 1.0),
        gram=None if gram is None else torch.as_tensor(gram, dtype=torch.float64),
        kpis=None if kpis is None else _row(kpis, tasks),
    )


def _row(values: Row, tasks: int, missing: float = torch.nan) -> PerTask:
    if values is None:
        return torch.full((tasks,), missing, dtype=torch.float64)
    return torch.as_tensor(values, dtype=torch.float64)


def on_meta(readings: Readings) -> Readings:
    """The same without numbers: what reads one on the host raises."""
    rows = {field.name: getattr(readings, field.name) for field in fields(Readings)}
    return Readings(**{name: None if row is None else row.to("meta") for name, row in rows.items()})
