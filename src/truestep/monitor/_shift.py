"""Covariate shift of a run's layers, measured on demand: as it goes into the record, and as it is read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, Final

from truestep.monitor._schema import OF_SHIFT

Query = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]

THERE: Final = (
    "SELECT 1 FROM sqlite_master WHERE name = 'layer_shift'"  # records of versions 1 and 2 have no such table
)
_ROWS: Final = f"""
SELECT o.name, s.step, s.train_mode, s.batches, l.name, r.n, r.features, {", ".join(f"r.{name}" for name in OF_SHIFT)}
FROM shift_step AS s JOIN layer_shift AS r USING (optimizer, step)
JOIN optimizer AS o ON o.id = s.optimizer JOIN layer AS l ON l.id = r.layer
ORDER BY s.step, s.optimizer, r.layer"""


@dataclass(frozen=True, slots=True)
class ShiftRows:
    """Covariate shift of the layers before one step, in plain numbers.

    Args:
        optimizer: Name of the optimizer that counts the steps.
        index: How many steps it had taken: the number of its next one.
        train_mode: Whether the model was in training mode.
        batches: How many batches this rank looked at.
        rows: What `truestep.conditioning.CovariateShift.rows` gives: a dict for each layer.
    """

    optimizer: str
    index: int
    train_mode: bool
    batches: int
    rows: list[dict[str, Any]]


def read_shifts(query: Query) -> list[dict[str, Any]]:
    """A plain dict for each layer at each measured step, in order; empty where nothing was measured."""
    return [_plain(row) for row in query(_ROWS, ())] if query(THERE, ()) else []


def _plain(row: Sequence[Any]) -> dict[str, Any]:
    optimizer, step, train_mode, batches, layer, n, features, *numbers = row
    head = {"optimizer": optimizer, "step": step, "train_mode": bool(train_mode), "batches": batches}
    found = (nan if number is None else number for number in numbers)
    return head | {"layer": layer, "n": n, "features": features} | dict(zip(OF_SHIFT, found, strict=True))
