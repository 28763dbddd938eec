"""Two tasks on one trunk, and a balancer that says what it is told to."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tests.monitor.loops import everything
from torch import Tensor, nn

from truestep import Watch, watch

NAN = float("nan")
TASKS = ("class", "parity")


class Fake:
    """A balancer whose every report is another one; those that were read are kept."""

    def __init__(self, fails: Callable[[int], Any] | None = None) -> None:
        self.read: list[SimpleNamespace] = []
        self._fails = fails

    @property
    def report(self) -> SimpleNamespace:
        number = len(self.read)
        columns = {
            name: {task: 100.0 * number + 10.0 * place + i for i, task in enumerate(TASKS)}
            for place, name in enumerate(("weights", "norms", "ratios", "losses"))
        }
        self.read.append(SimpleNamespace(**columns, step_factor=number + 0.5, trunk_factor=NAN, updates=number))
        if self._fails:
            self._fails(number)
        return self.read[-1]


class Tasks:
    """A seeded run of two heads on one trunk, whose losses a balancer of `make` adds up where it is given."""

    def __init__(self, make: Callable[[], Any] | None = None) -> None:
        torch.manual_seed(5)
        self.trunk, self.heads = nn.Linear(3, 4), nn.ModuleDict({task: nn.Linear(4, 1) for task in TASKS})
        self.model = nn.ModuleDict({"trunk": self.trunk, "heads": self.heads})
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.balancer = make() if make else None
        self.losses: dict[str, Tensor] = {}  # of the last batch
        self.reports: list[Any] = []  # of the real balancer, after every step

    def watch(self, run_dir: Path | None = None, **options: Any) -> Watch:
        usual = {"every": 1, "console": None, "balancer": self.balancer}
        return watch(self.model, self.optimizer, run_dir, **(usual | options))

    def total(self, step: int) -> Tensor:
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
        z = self.trunk(x).tanh()
        views = self.balancer.split(z) if self.balancer else dict.fromkeys(TASKS, z)
        self.losses = {task: (self.heads[task](views[task]) - 10.0**i).square().mean() for i, task in enumerate(TASKS)}
        return self.balancer.total(self.losses) if self.balancer else torch.stack(list(self.losses.values())).sum()

    def train(self, run: Watch | None, start: int, stop: int) -> None:
        for step in range(start, stop):
            loss = self.total(step)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.balancer:
                self.reports.append(self.balancer.report)
            if run:
                run.log(loss=loss, samples=6)

    def state(self) -> dict[str, Any]:
        """All that a watch could have touched."""
        balancer = {} if self.balancer is None else {k: v.clone() for k, v in self.balancer.named_buffers()}
        return everything(self.model, self.optimizer) | {"balancer": balancer}


def as_version_1(path: Path) -> None:
    """Make a record what an older truestep wrote: one without tables of tasks or of covariate shift."""
    as_version_2(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("task", "task_step", "balance_step"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 1")


def as_version_2(path: Path) -> None:
    """Make a record what an older truestep wrote: one without tables of covariate shift."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("layer", "shift_step", "layer_shift"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 2")


def told(balances: Any) -> list[Any]:
    """Step numbers and reports, nan as None, so that they compare."""
    names = ("weights", "norms", "ratios", "losses", "step_factor", "trunk_factor", "updates")
    return [(balance.index, [plain(getattr(balance, name)) for name in names]) for balance in balances]


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return None if value != value else value
