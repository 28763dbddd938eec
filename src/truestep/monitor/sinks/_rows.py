"""Rows on their way into a record: tensors read in one transfer, many rows in one statement."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import chain
from typing import Any, Final, TypeVar

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core import Step
from truestep.monitor._balance import Balance
from truestep.monitor._schema import ASKED, OF_SHIFT, TOOK
from truestep.monitor._shift import ShiftRows

ScalarRow = tuple[int, int, float, Any, Any, Any]  # optimizer, step, time, loss, samples, skipped

_Row = TypeVar("_Row")

ROWS_A_STATEMENT: Final = (64, 8, 1)
_PLAIN: Final = frozenset({int, float, bool, type(None)})


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows handed over and not yet written, by kind. One thread appends, another takes."""

    scalars: list[ScalarRow] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    shifts: list[ShiftRows] = field(default_factory=list)
    schedule: list[tuple[int, int, int, Any]] = field(default_factory=list)
    events: list[tuple[float, int | None, int | None, str, str]] = field(default_factory=list)
    blocks: list[tuple[Any, ...]] = field(default_factory=list)
    optimizers: list[tuple[int, str, str, str]] = field(default_factory=list)
    meta: list[tuple[str, str]] = field(default_factory=list)

    def take(self) -> Batch:
        """All rows so far. What is named by other rows is taken last, so that it is there when they are."""
        return Batch(
            _take(self.scalars),
            _take(self.steps),
            _take(self.balances),
            _take(self.shifts),
            _take(self.schedule),
            _take(self.events),
            _take(self.blocks),
            _take(self.optimizers),
            _take(self.meta),
        )

    def put_back(self, taken: Batch) -> None:
        """Rows that could not be written stand before those that came since."""
        for column in reversed(fields(self)):  # as `take` does: what is named by other rows is there when they are
            getattr(self, column.name)[:0] = getattr(taken, column.name)

    def clear(self) -> None:
        """Drop all rows."""
        for column in fields(self):
            getattr(self, column.name).clear()

    def __bool__(self) -> bool:
        return any(getattr(self, column.name) for column in fields(self))


def _take(rows: list[_Row]) -> list[_Row]:
    taken = rows[:]
    del rows[: len(taken)]  # what was appended in between stays
    return taken


def flat_numbers(rows: Iterable[Sequence[Any]]) -> list[Any]:
    """All values of the rows in one list, tensors of one element read as numbers: one transfer a device and dtype.

    Example:
        >>> flat_numbers([(1, torch.tensor(0.5), None), (2, torch.tensor(2.0), 3)])
        [1, 0.5, None, 2, 2.0, 3]
    """
    flat = list(chain.from_iterable(rows))
    held: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place in [place for place, value in enumerate(flat) if type(value) not in _PLAIN]:
        value = flat[place]
        if isinstance(value, Tensor):
            held.setdefault((value.device, value.dtype), []).append(place)
        else:
            flat[place] = float(value)  # numpy's scalars
    for (device, _), places in held.items():
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the loss may come from a stream that this thread does not follow
        with torch.no_grad():
            read: list[float] = torch.stack([flat[place].reshape(()) for place in places]).tolist()
        for place, number in zip(places, read, strict=True):
            flat[place] = number
    return flat


def flat_blocks(step: Step, optimizer: int, blocks: Float64[Tensor, " blocks"]) -> list[float]:
    """Rows of `block_step` in one list: optimizer, step, block, what was asked, what it took."""
    columns = [getattr(step.asked, name) for name in ASKED] + [getattr(step.took, name) for name in TOOK]
    head = torch.tensor([optimizer, step.index], dtype=torch.float64, device="cpu")
    table = torch.cat([head.expand(len(blocks), 2), blocks[:, None], torch.stack(columns, 1)], 1)
    return table.flatten().tolist()


def flat_tasks(balance: Balance, optimizer: int, tasks: Mapping[str, int]) -> list[int | float]:
    """Rows of `task_step` in one list: optimizer, step, task, its weight, norm, ratio and loss."""
    columns = balance.norms, balance.ratios, balance.losses
    rows = (
        (optimizer, balance.index, tasks[task], weight, *(column[task] for column in columns))
        for task, weight in balance.weights.items()
    )
    return list(chain.from_iterable(rows))


def flat_shift(shift: ShiftRows, optimizer: int, layers: Mapping[str, int]) -> list[int | float]:
    """Rows of `layer_shift` in one list: optimizer, step, layer, numbers of rows and features, and the rest."""
    rows = (
        (optimizer, shift.index, layers[row["layer"]], row["n"], row["features"], *(row[name] for name in OF_SHIFT))
        for row in shift.rows
    )
    return list(chain.from_iterable(rows))


def insert(connection: sqlite3.Connection, head: str, width: int, flat: Sequence[Any]) -> None:
    """Insert `len(flat) / width` rows, up to 64 a statement.

    `executemany` hands the interpreter lock over once a row, and the training thread waits each time: 5,000 blocks
    cost twice as much that way.

    Args:
        connection: Where to, inside a transaction.
        head: The statement up to VALUES.
        width: Values in a row.
        flat: Values of all rows, one row after the other; nan becomes NULL.
    """
    start = 0
    for rows in ROWS_A_STATEMENT:
        statement = _statement(head, width, rows)
        while len(flat) - start >= rows * width:
            connection.execute(statement, flat[start : start + rows * width])
            start += rows * width


@cache
def _statement(head: str, width: int, rows: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{head} VALUES {', '.join([row] * rows)}"
