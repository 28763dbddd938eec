"""A loss that cannot be balanced is refused by its task's name: at once, or when its flags have come."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from truestep.multitask.balancing._refusal import Refusal

TASKS = ("a", "b", "c")
ALL = [1.0, 1.0, 1.0]


def check(refusal: Refusal, losses: list[float], good: list[bool], count: list[float] | None = None) -> None:
    refusal.check(
        torch.tensor(losses, dtype=torch.float64),
        torch.tensor(good),
        torch.tensor(ALL if count is None else count, dtype=torch.float64),
    )


def test_good_losses_pass() -> None:
    refusal = Refusal(TASKS, "UnitNorm")
    check(refusal, [1.0, 0.0, 1e300], [True, True, True])
    assert refusal._sent is None  # nothing is left to be looked at


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_no_number_to_balance(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"^the loss of task 'b' is {bad:g}, not a number to balance$"):
        check(Refusal(TASKS, "GradNorm"), [1.0, bad, 1.0], [True, False, True])


@pytest.mark.parametrize("bad", [-1e-10, -2.5, -1e10])
def test_a_negative_loss_is_refused_with_the_rule_that_divides_by_it(bad: float) -> None:
    message = rf"^the loss of task 'c' is {bad:g}; GradNorm divides by it: give a loss that is not negative$"
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        check(Refusal(TASKS, "GradNorm"), [1.0, 1.0, bad], [True, True, False])


def test_the_first_bad_task_that_is_there_is_named_with_its_own_loss() -> None:
    with pytest.raises(ValueError, match="'b' is inf"):
        check(Refusal(TASKS, "GradNorm"), [torch.nan, torch.inf, torch.nan], [False, False, False], [0.0, 1.0, 3.0])


def test_a_task_that_is_absent_may_be_anything() -> None:
    losses, good = [torch.nan, 1.0, -1.0], [False, True, False]
    refusal = Refusal(TASKS, "GradNorm")
    check(refusal, losses, good, [0.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="'c' is -1"):  # the same loss of a task that is there
        check(refusal, losses, good, [0.0, 1.0, 1.0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_refuses_alike_and_waits_for_nothing(copied: Any) -> None:
    refusal = Refusal(TASKS, "GradNorm")
    refusal._sent = (torch.ones(2, 3), Event())
    other = copied(refusal)
    assert other._sent is None
    other.arrived()
    with pytest.raises(ValueError, match="'b' is -1; GradNorm divides"):
        check(other, [1.0, -1.0, 1.0], [True, False, True])


class Event:
    """As a GPU's: it has happened, or not yet."""

    def __init__(self) -> None:
        self.happened = False

    def query(self) -> bool:
        return self.happened


def sent(bad: list[float], losses: list[float]) -> tuple[Refusal, Event]:
    refusal, event = Refusal(TASKS, "GradNorm"), Event()
    told: Tensor = torch.tensor([bad, losses], dtype=torch.float64)
    refusal._sent = (told, event)  # as `check` leaves it on a GPU
    return refusal, event


def test_flags_on_their_way_are_not_waited_for_and_refuse_once_when_they_have_come() -> None:
    refusal, event = sent([0.0, 0.0, 1.0], [1.0, 1.0, torch.nan])
    refusal.arrived()
    event.happened = True
    with pytest.raises(ValueError, match="'c' is nan, not a number"):
        refusal.arrived()
    refusal.arrived()


def test_good_flags_that_have_come_are_forgotten() -> None:
    refusal, event = sent([0.0, 0.0, 0.0], [1.0, 1.0, torch.nan])
    event.happened = True
    refusal.arrived()
    assert refusal._sent is None


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for_and_its_bad_loss_is_refused_when_it_has_arrived() -> None:
    refusal = Refusal(TASKS, "GradNorm")
    rows = [torch.tensor(x, device="cuda") for x in ([1.0, torch.nan, -1.0], [True, False, False], ALL)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        refusal.check(rows[0].double(), rows[1], rows[2].double())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match="'b' is nan, not a number"):
        refusal.arrived()
