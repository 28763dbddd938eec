"""Steps typed in, and records looked at from outside with plain sqlite3."""

import sqlite3
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import forked

from truestep.core import Asked, Gram, Step
from truestep.monitor._balance import Balance
from truestep.monitor._schema import OF_SHIFT
from truestep.monitor._shift import ShiftRows
from truestep.monitor.sinks import Store

NAMES = ("fc.weight", "fc.bias", "out.weight[3]")
TASKS = ("class", "parity")


def a_step(index: int, *, optimizer: str = "SGD", names: tuple[str, ...] = NAMES, mark: float = 0.0) -> Step:
    """A step whose numbers say which step, block and column they belong to; `mark` is its loss."""
    columns = torch.arange(12.0, dtype=torch.float64)[:, None] + 100.0 * torch.arange(len(names)) + 1e4 * index
    return Step(optimizer, index, 1.7e9 + index, mark, 32.0, False, names, Asked(*columns[:6]), Gram(*columns[6:]))


def a_balance(index: int, *, optimizer: str = "SGD", tasks: tuple[str, ...] = TASKS) -> Balance:
    """What a balancer did, in numbers that say which step, task and column they belong to."""
    columns = ({task: 1e4 * index + 100.0 * place + i for place, task in enumerate(tasks)} for i in range(4))
    return Balance(optimizer, index, *columns, step_factor=index + 0.5, trunk_factor=index + 0.25, updates=index)


def a_shift(index: int, *, layers: tuple[str, ...] = ("conv", "fc"), optimizer: str = "SGD") -> ShiftRows:
    """What was measured, in numbers that say which step, layer and column they belong to."""
    columns = ("n", "features", *OF_SHIFT)
    rows = [
        {"layer": layer, **{name: 1e4 * index + 100.0 * place + i for i, name in enumerate(columns)}}
        for place, layer in enumerate(layers)
    ]
    counted = [row | {"n": int(row["n"]), "features": int(row["features"])} for row in rows]
    return ShiftRows(optimizer, index, train_mode=index % 2 == 0, batches=index + 1, rows=counted)


def write(store: Store, steps: range, *, mark: float = 0.0, optimizer: str = "SGD") -> None:
    """Scalars, recorded steps and what a balancer did, as a watch hands them over."""
    handle = store.optimizer(optimizer, "SGD", "[]")
    for index in steps:
        store.scalar((handle, index, 1.7e9 + index, mark, 32.0, False))
        store.balance(a_balance(index, optimizer=optimizer))
        store.step(a_step(index, optimizer=optimizer, mark=mark))


def rolled_back_and_written_again(store: Store) -> None:
    """Write what the store holds in a batch that fails at its end, then once more without the cause."""
    writer = store._record.writer
    assert writer is not None
    store.event("tag", "of an optimizer that nobody registered", 7)
    batch = store._batch.take()
    with pytest.raises(KeyError):
        writer.write(batch)
    batch.events.clear()
    writer.write(batch)


def rows(path: Path, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """What another program reads from the record."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql, parameters).fetchall()


def column(path: Path, sql: str, *parameters: Any) -> list[Any]:
    """The first column of `rows`."""
    return [row[0] for row in rows(path, sql, *parameters)]


def in_a_process(source: str, *arguments: object) -> str:
    """Output of a Python program that ends by itself."""
    quiet = "ignore:This process:DeprecationWarning"  # 3.12 on: forking beside threads is what is tested here
    done = forked.run("-c", textwrap.dedent(source), *arguments, warn=quiet)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout
