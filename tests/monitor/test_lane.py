"""The every-step path of one optimizer: its rows, and its schedule exact at every step."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from truestep.core import never
from truestep.monitor import _lane
from truestep.monitor._lane import Lane
from truestep.monitor._ledger import Ledger
from truestep.monitor.sinks import Store


class Watched:
    """A lane into a record in memory."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.store = optimizer, Store(None, meta={})
        self.emitted: list[Any] = []
        parameters = {f"p{i}": p for i, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
        self.errors: list[Exception] = []
        self.lane = Lane(
            "main",
            optimizer,
            lambda: parameters,
            ledger=Ledger(self.emitted.append),
            store=self.store,
            due=never,
            on_step=print,
            on_error=self.errors.append,
            units=(),
        )

    def rows(self) -> list[tuple[int, int, float]]:
        """Step, group and lr of the schedule's rows."""
        assert self.errors == []
        self.store.flush()
        with self.store.reader() as run:
            return run.query("SELECT step, param_group, lr FROM schedule ORDER BY step, param_group")

    def lr_at(self, step: int, group: int) -> float:
        """Forward fill."""
        return next(lr for at, which, lr in reversed(self.rows()) if which == group and at <= step)


def groups() -> list[dict[str, Any]]:
    return [{"params": [nn.Parameter(torch.ones(2))]}, {"params": [nn.Parameter(torch.ones(3))], "lr": 0.5}]


def test_a_constant_lr_is_one_row_a_group() -> None:
    watched = Watched(SGD(groups(), lr=0.1))
    for _ in range(300):
        watched.optimizer.step()
    assert watched.rows() == [(0, 0, 0.1), (0, 1, 0.5)]


SCHEDULES = {
    "LambdaLR": lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.5 ** (epoch // 7)),
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, max_lr=[0.4, 0.8], total_steps=41, cycle_momentum=False),
}


@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_filled_forward_the_schedule_is_exact_at_every_step(make: Any, tensor: bool) -> None:
    rule = Adam(groups(), lr=torch.tensor(0.1, dtype=torch.float64), foreach=False) if tensor else SGD(groups(), lr=0.1)
    watched = Watched(rule)
    scheduler, used = make(watched.optimizer), list[list[float]]()
    for _ in range(40):
        used.append([float(group["lr"]) for group in watched.optimizer.param_groups])
        watched.optimizer.step()
        scheduler.step()
    assert len({tuple(lrs) for lrs in used}) > 3
    assert [[watched.lr_at(step, group) for group in (0, 1)] for step in range(40)] == used


def test_only_the_group_whose_lr_changed_gets_a_row() -> None:
    watched = Watched(SGD(groups(), lr=0.1))
    for step in range(6):
        watched.optimizer.param_groups[1]["lr"] = 0.5 if step < 3 else 0.25
        watched.optimizer.step()
    assert watched.rows() == [(0, 0, 0.1), (0, 1, 0.5), (3, 1, 0.25)]


def test_a_tensor_filled_in_place_is_noted_as_it_is_at_each_step() -> None:
    lr = torch.tensor(1.0)
    watched = Watched(Adam([nn.Parameter(torch.ones(2))], lr=lr, foreach=False))
    for value in (1.0, 1.0, 0.5, 0.5, 1.0):
        lr.fill_(value)
        watched.optimizer.step()
    assert watched.rows() == [(0, 0, 1.0), (2, 0, 0.5), (4, 0, 1.0)]


def test_a_group_added_in_mid_run_gets_its_row() -> None:
    watched = Watched(SGD(groups(), lr=0.1))
    watched.optimizer.step()
    watched.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 2.0})
    watched.optimizer.step()
    assert watched.rows() == [(0, 0, 0.1), (0, 1, 0.5), (1, 2, 2.0)]


class Plain(Optimizer):
    """A rule that has no lr at all."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None: ...


def test_a_rule_without_an_lr_has_no_schedule_and_no_trouble() -> None:
    watched = Watched(Plain([nn.Parameter(torch.ones(2))]))
    watched.lane._ledger.log(0.5, None)
    watched.optimizer.step()
    assert watched.rows() == []
    watched.lane._ledger.settle()
    assert [row[:2] for row in watched.emitted] == [(1, 0)]


def test_every_step_is_told_with_its_time_and_the_lane_s_number(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    watched = Watched(SGD(groups(), lr=0.1))
    monkeypatch.setattr(_lane.time, "time", lambda: 1000.0 + next(ticks))
    for _ in range(3):
        watched.lane._ledger.log(0.5, 2)
        watched.optimizer.step()
    assert watched.emitted == [(1, step, 1000.0 + step, 0.5, 2, False) for step in range(3)]


def test_where_nobody_logs_a_step_that_is_not_recorded_has_no_row_until_it_is_the_last() -> None:
    watched = Watched(SGD(groups(), lr=0.1))
    watched.optimizer.step()
    watched.optimizer.step()
    assert watched.emitted == []
    row = watched.lane.unnoted()
    assert row is not None
    assert (row[0], row[1], *row[3:]) == (1, 1, None, None, False)
    watched.lane.resume(7)
    assert watched.lane.unnoted() is None


def test_the_optimizer_is_registered_with_its_rule_and_settings() -> None:
    watched = Watched(SGD(groups(), lr=0.1))
    watched.store.flush()
    with watched.store.reader() as run:
        (info,) = run.optimizers
    assert (info.id, info.name, info.rule) == (watched.lane.number, "main", "SGD")
    assert '"lr": 0.5' in str(info.settings)
