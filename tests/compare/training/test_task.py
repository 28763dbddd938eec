"""Steps at which losses are taken, and lrs on a schedule."""

import torch
from hypothesis import given
from hypothesis.strategies import integers
from tests.compare.training.nets import RULES, problem
from torch import nn
from torch.optim import SGD

from truestep.compare.training._task import Lrs, spaced, task_of


@given(integers(1, 2000), integers(1, 60))
def test_points_are_evenly_spaced_and_end_at_the_end(steps: int, points: int) -> None:
    found = spaced(steps, points)
    gaps = [b - a for a, b in zip((0, *found), found, strict=False)]
    assert len(found) == min(steps, points)
    assert found[-1] == steps
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 2  # each is rounded


def test_a_linear_schedule_starts_at_one_and_would_be_zero_after_the_last_step() -> None:
    settings = {"points": 1, "control": None, "unit_loss": False, "paths": False}
    task = task_of(problem(), RULES["sgd"], steps=4, schedule="linear", **settings)
    assert [task.factor(step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_each_group_has_its_own_lr_times_the_factor() -> None:
    a, b = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = SGD([{"params": [a], "lr": 0.5}, {"params": [b], "lr": 0.25}])
    lrs = Lrs(optimizer)
    for factor in (0.5, 0.25):  # of the first lr, not of the last
        lrs.times(factor)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.0625]
