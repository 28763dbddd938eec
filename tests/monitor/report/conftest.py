"""Run records typed in by hand or walked at random, and a reader as small as a page needs."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from truestep.core import gram
from truestep.monitor._schema import APPLICATION_ID, ASKED, OF_SHIFT, SCHEMA, TOOK, VERSION

START = 1_700_000_000.0
META = {
    "id": "0" * 32,
    "created": str(START),
    "status": "finished",
    "ended": str(START + 9),
    "truestep": "0.1.0",
    "torch": "2.13.0",
    "python": "3.11.7",
    "command": '["demo.py", "--steps", "1600"]',
    "seed": "7",
    "device": "cpu",
    "world_size": "1",
    "git": '{"commit": "0123456789abcdef", "dirty": true}',
    "every": "1",
    "budget": "0.01",
    "cost_seconds": "0.31",
    "wall_seconds": "9.2",
}
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.005, "dampening": 0, "nesterov": False, "foreach": None}


class Book:
    """A record being written by hand, and the reader of it: `meta`, `query`, `close`."""

    def __init__(self, path: Path = Path(":memory:"), **meta: str) -> None:
        self.where = str(path)
        self.db = sqlite3.connect(path)
        self.db.executescript(SCHEMA)
        self.db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self.db.execute(f"PRAGMA user_version = {VERSION}")
        self.meta = META | meta
        self.db.executemany("INSERT INTO run VALUES (?, ?)", self.meta.items())

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.db.execute(sql, parameters).fetchall()

    def close(self) -> None:
        self.db.close()

    def optimizer(self, rule: str = "SGD", settings: Sequence[dict[str, Any]] = (SGD,), name: str | None = None) -> int:
        row = (name or rule, rule, json.dumps(list(settings)))
        return self._insert("optimizer (name, rule, settings)", row)

    def block(
        self,
        name: str,
        optimizer: int | None = 1,
        shape: Sequence[int] = (8, 4),
        kind: str = "Linear.weight",
        symmetry: str | None = None,
    ) -> int:
        numel = torch.Size(shape).numel()
        row = (name, json.dumps(list(shape)), numel, kind, symmetry, optimizer)
        return self._insert("block (name, shape, numel, kind, symmetry, optimizer)", row)

    def step(self, step: int, loss: float | None = None, optimizer: int = 1, skipped: int = 0, samples: Any = None):
        row = (optimizer, step, START + step, loss, samples, skipped)
        self.db.execute("INSERT INTO step VALUES (?, ?, ?, ?, ?, ?)", row)

    def lr(self, step: int, lr: float, group: int = 0, optimizer: int = 1) -> None:
        self.db.execute("INSERT INTO schedule VALUES (?, ?, ?, ?)", (optimizer, step, group, lr))

    def take(self, step: int, block: int = 1, optimizer: int = 1, **values: float | None) -> None:
        """A row of `block_step`: a step of length 1 across a weight of norm 10, but for `values`."""
        plain = dict.fromkeys((*ASKED, *TOOK), 0.0)
        usual = {"lr": 0.1, "weight_decay": 5e-3, "momentum": 0.9, "ww": 100.0, "gg": 4.0, "dd": 1.0}
        row = [None if v is None or isnan(v) else v for v in (plain | usual | values).values()]
        marks = ", ".join("?" * (3 + len(row)))
        self.db.execute(f"INSERT INTO block_step VALUES ({marks})", (optimizer, step, block, *row))

    def balance(
        self,
        step: int,
        tasks: dict[str, tuple[float | None, ...]],
        step_factor: float | None = 1.0,
        trunk_factor: float | None = None,
    ) -> None:
        """What a balancer did at a step: weight, norm, ratio and loss of each task."""
        self.db.execute("INSERT INTO balance_step VALUES (1, ?, ?, ?, 1)", (step, step_factor, trunk_factor))
        for name, row in tasks.items():
            self.db.execute("INSERT OR IGNORE INTO task (name) VALUES (?)", (name,))
            (task,) = self.db.execute("SELECT id FROM task WHERE name = ?", (name,)).fetchone()
            self.db.execute("INSERT INTO task_step VALUES (1, ?, ?, ?, ?, ?, ?)", (step, task, *row))

    def shift(
        self, step: int, layers: dict[str, dict[str, float | None]], train_mode: int = 1, batches: int = 2
    ) -> None:
        """What was measured before a step: numbers of each layer by name; one with `direct` alone has no rows."""
        self.db.execute("INSERT INTO shift_step VALUES (1, ?, ?, ?)", (step, train_mode, batches))
        for name, told in layers.items():
            self.db.execute("INSERT OR IGNORE INTO layer (name) VALUES (?)", (name,))
            (layer,) = self.db.execute("SELECT id FROM layer WHERE name = ?", (name,)).fetchone()
            counts = (64, 9) if "nu" in told else (0, 0)
            row = (1, step, layer, *counts, *(told.get(column) for column in OF_SHIFT))
            self.db.execute(f"INSERT INTO layer_shift VALUES ({', '.join('?' * len(row))})", row)

    def event(self, step: int | None, kind: str, text: str, optimizer: int | None = 1) -> None:
        self.db.execute(
            "INSERT INTO event (time, optimizer, step, kind, text) VALUES (?, ?, ?, ?, ?)",
            (START + (step or 0), optimizer, step, kind, text),
        )

    def _insert(self, into: str, row: Sequence[Any]) -> int:
        cursor = self.db.execute(f"INSERT INTO {into} VALUES ({', '.join('?' * len(row))})", row)
        return int(cursor.lastrowid or 0)


def walk(book: Book, block: int, steps: int, *, decay: float, scale: float, invariant: bool, seed: int) -> None:
    """A weight under heavy-ball SGD whose gradient is noise, across it and ∝ 1/|w| where it is scale invariant."""
    draw = torch.Generator().manual_seed(seed)
    w = scale * torch.randn(48, generator=draw, dtype=torch.float64) / 48**0.5
    velocity, lr, momentum = torch.zeros_like(w), 0.1, 0.9
    for step in range(steps):
        size = 0.08 * scale * (0.25 + 0.75 * 0.997**step)
        g = size * torch.randn(48, generator=draw, dtype=torch.float64)
        if invariant:
            g = scale * (g - w * (w @ g) / (w @ w)) / w.norm()
        velocity = momentum * velocity + g + decay * w
        d = -lr * velocity
        took = gram(w, g, d)
        sums = {name: float(getattr(took, name)) for name in TOOK}
        book.take(step, block, weight_decay=decay, **sums)
        w: Tensor = w + d


def demo(title: str, decay: float, steps: int = 1600) -> Book:
    """Three convolutions of a BatchNorm net and a head, as `truestep demo` trains them."""
    book = Book(title=title)
    book.optimizer(settings=[SGD | {"weight_decay": decay}])
    layers = [("conv1.weight", (16, 1, 3, 3)), ("conv2.weight", (32, 16, 3, 3)), ("conv3.weight", (64, 32, 3, 3))]
    for number, (name, shape) in enumerate(layers):
        block = book.block(name, shape=shape, kind="Conv2d.weight")
        walk(book, block, steps, decay=decay, scale=1.5 + 2 * number, invariant=True, seed=number)
    head = book.block("head.weight", shape=(10, 64))
    walk(book, head, steps, decay=decay, scale=2.0, invariant=False, seed=9)
    for number in range(3):
        bias = book.block(f"bn{number + 1}.bias", shape=(16,), kind="BatchNorm2d.bias")
        walk(book, bias, steps, decay=decay, scale=0.3, invariant=False, seed=20 + number)
    noise = torch.randn(steps, generator=torch.Generator().manual_seed(3))
    book.lr(0, 0.1)
    for step in range(steps):
        book.step(
            step, loss=float(2.3 * 0.995**step + (0.08 if decay else 0.15) * (0.3 * noise[step]).exp()), samples=128
        )
    return book


@pytest.fixture(scope="session")
def open_book() -> type[Book]:
    """The class itself, for tests that hypothesis runs many times."""
    return Book


@pytest.fixture
def new_book() -> Iterator[Callable[..., Book]]:
    """Make a record by a title; all are closed at the end."""
    books: list[Book] = []

    def make(title: str = "run", **meta: str) -> Book:
        books.append(Book(**({"title": title} | meta)))
        return books[-1]

    yield make
    for book in books:
        book.close()


@pytest.fixture
def two_runs() -> Iterator[list[Book]]:
    """Records that resemble those of `truestep demo`, with and without weight decay."""
    runs = [demo("decay", 5e-3, 200), demo("no decay", 0.0, 200)]
    yield runs
    for run in runs:
        run.close()
