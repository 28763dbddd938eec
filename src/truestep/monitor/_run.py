"""A run read back from its record."""

from __future__ import annotations

import heapq
import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import nan
from pathlib import Path
from typing import Any, Final, Self

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from truestep.core import Asked, Gram, Step
from truestep.monitor._balance import Balances
from truestep.monitor._reading import find, naming_damage, open_for_reading
from truestep.monitor._schema import ASKED, TOOK
from truestep.monitor._shift import read_shifts

Rows = list[tuple[Any, ...]]

# A row of `block_step` costs a page read; going from one recorded step to the next by the key does not read them all.
_RECORDED: Final = """
WITH RECURSIVE recorded (step) AS (
    SELECT min(step) FROM block_step WHERE optimizer = :id
    UNION ALL
    SELECT (SELECT min(step) FROM block_step WHERE optimizer = :id AND step > recorded.step)
    FROM recorded WHERE step IS NOT NULL)
SELECT step FROM recorded WHERE step IS NOT NULL"""
_BLOCKS: Final = f"""
SELECT block, {", ".join((*ASKED, *TOOK))} FROM block_step WHERE optimizer = ? AND step = ? ORDER BY block"""


@dataclass(frozen=True, slots=True)
class OptimizerInfo:
    """An optimizer of a run: its name there, its class, and its parameter groups' settings as JSON."""

    id: int
    name: str
    rule: str
    settings: str | None


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """A block or unit of a run; None is what the run did not say. `optimizer` is the id of the one that moves it."""

    id: int
    name: str
    shape: tuple[int, ...] | None
    numel: int | None
    kind: str | None
    symmetry: str | None
    optimizer: int | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run, at a Unix time in seconds; `optimizer` is an id."""

    time: float
    kind: str
    text: str
    optimizer: int | None
    step: int | None


class Run:
    """A run as its record tells it, read only; what a run that still goes on adds is seen as it comes.

    Args:
        where: Names the record in errors.
        fetch: Returns the rows of a SELECT and its parameters.
        close: Gives the record back.
    """

    def __init__(self, where: str, fetch: Callable[[str, Sequence[Any]], Rows], close: Callable[[], object]) -> None:
        self.where = where
        self._fetch, self._close = fetch, close

    @property
    def meta(self) -> dict[str, str]:
        """Facts of the run: versions, command, seed, git state, status."""
        return dict(self.query("SELECT key, value FROM run"))

    @property
    def optimizers(self) -> tuple[OptimizerInfo, ...]:
        """Optimizers, by id."""
        rows = self.query("SELECT id, name, rule, settings FROM optimizer ORDER BY id")
        return tuple(OptimizerInfo(*row) for row in rows)

    @property
    def blocks(self) -> tuple[BlockInfo, ...]:
        """Blocks and units, by id: the model's order."""
        rows = self.query("SELECT id, name, shape, numel, kind, symmetry, optimizer FROM block ORDER BY id")
        return tuple(BlockInfo(id_, name, self._shape(shape), *rest) for id_, name, shape, *rest in rows)

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened, in the order it was noted."""
        return tuple(
            Event(*row) for row in self.query("SELECT time, kind, text, optimizer, step FROM event ORDER BY id")
        )

    @property
    def steps(self) -> Steps:
        """The recorded steps, in order of step and optimizer, read one at a time."""
        return Steps(self)

    @property
    def balance(self) -> Balances:
        """What a balancer did at the recorded steps, read one at a time; empty where none was watched."""
        return Balances(self.query)

    def covariate_shift(self) -> list[dict[str, Any]]:
        """What `Watch.covariate_shift` found: a plain dict for each layer at each measured step.

        Keys are optimizer, step (taken by then), train_mode, batches (on rank 0), layer, and those of
        `truestep.conditioning.CovariateShift.rows`; nan where a number does not apply. The ICS share has
        empirical deltas: the gradients of the loss that was given.
        """
        return read_shifts(self.query)

    def losses(self, optimizer: str | None = None) -> tuple[Int64[Tensor, " steps"], Float64[Tensor, " steps"]]:
        """Steps and their losses, nan where none was given: every step, recorded or not.

        Args:
            optimizer: Name of the optimizer; the run's first one by default.

        Raises:
            ValueError: If the run has no such optimizer.
        """
        known = {info.name: info.id for info in self.optimizers}
        if optimizer is not None and optimizer not in known:
            msg = f"`optimizer` {optimizer!r} is not in {self.where}; its optimizers are {list(known)}"
            raise ValueError(msg)
        id_ = next(iter(known.values()), None) if optimizer is None else known[optimizer]
        rows = self.query("SELECT step, loss FROM step WHERE optimizer = ? ORDER BY step", (id_,))
        steps = torch.tensor([step for step, _ in rows], dtype=torch.int64, device="cpu")
        return steps, torch.tensor([_number(loss) for _, loss in rows], dtype=torch.float64, device="cpu")

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Rows of a SELECT on the tables of the record.

        Raises:
            ValueError: If the record turns out to be damaged.
            sqlite3.OperationalError: If the statement is wrong, or would write.
        """
        with naming_damage(self.where):
            return self._fetch(sql, parameters)

    def close(self) -> None:
        """Close the record."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shape(self, text: str | None) -> tuple[int, ...] | None:
        try:
            return None if text is None else tuple(json.loads(text))
        except (TypeError, ValueError) as error:
            msg = f"{self.where} is damaged (shape {text!r})"
            raise ValueError(msg) from error


class Steps:
    """The recorded steps of a run: has a length, and can be gone through again and again.

    Args:
        run: The run they are read from.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def __len__(self) -> int:
        return sum(1 for _ in self._places())

    def __iter__(self) -> Iterator[Step]:
        optimizers = {info.id: info.name for info in self._run.optimizers}
        names: dict[int, str] = {}
        for index, optimizer in self._places():
            rows = self._run.query(_BLOCKS, (optimizer, index))
            if any(row[0] not in names for row in rows):  # also those that a run added while it is read
                names = {block.id: block.name for block in self._run.blocks}
            if rows:  # thinned or taken back since its place was read
                yield self._step(optimizers[optimizer], optimizer, index, rows, names)

    def _places(self) -> Iterator[tuple[int, int]]:
        """Step and optimizer of each recorded step, in order."""
        ids = [info.id for info in self._run.optimizers]
        return heapq.merge(*([(step, id_) for (step,) in self._run.query(_RECORDED, (id_,))] for id_ in ids))

    def _step(self, name: str, optimizer: int, index: int, rows: Rows, names: dict[int, str]) -> Step:
        numbers = [_number(value) for value in chain.from_iterable(row[1:] for row in rows)]
        columns = torch.tensor(numbers, dtype=torch.float64, device="cpu").view(len(rows), -1).t().contiguous()
        scalars = self._run.query(
            "SELECT time, loss, samples, skipped FROM step WHERE optimizer = ? AND step = ?", (optimizer, index)
        )
        time, loss, samples, skipped = scalars[0] if scalars else (None, None, None, 0)
        return Step(
            name,
            index,
            _number(time),
            _number(loss),
            _number(samples),
            bool(skipped),
            tuple(names[row[0]] for row in rows),
            Asked(*columns[: len(ASKED)]),
            Gram(*columns[len(ASKED) :]),
        )


def load_run(run_dir: str | Path) -> Run:
    """Open the record of a run, read only; also while it is being written, or after it was killed.

    Args:
        run_dir: Directory of the run, or the database file itself.

    Raises:
        ValueError: If there is no record, or it is another program's, of another version, or damaged.
    """
    path = find(run_dir)
    connection, close = open_for_reading(path)

    def fetch(sql: str, parameters: Sequence[Any]) -> Rows:
        return connection.execute(sql, parameters).fetchall()

    run = Run(str(path), fetch, close)
    weakref.finalize(run, close)  # a run that was only looked into: `watch(...).steps`
    return run


def _number(value: float | None) -> float:
    return nan if value is None else value
