"""From the sums of a window to weights: what counts, what leaves no trace, and what goes on after a resume."""

from __future__ import annotations

import pytest
import torch

from truestep.multitask._dynamic_task_priority import DynamicTaskPriority
from truestep.multitask._gradnorm import GradNorm
from truestep.multitask._rule import AbstractRule
from truestep.multitask._surgery import Surgery
from truestep.multitask._unit_norm import UnitNorm
from truestep.multitask.balancing._gauge import Gauge
from truestep.multitask.balancing._initial import InitialLosses
from truestep.multitask.balancing._task_sums import TaskSums
from truestep.multitask.balancing._weigher import Weigher, what_to_read

TASKS = ("a", "b")


def weigher(rule: AbstractRule, tasks: tuple[str, ...] = TASKS) -> Weigher:
    rule.start(tasks)
    gauge = Gauge(tasks, what_to_read(rule, "budget", gram=False), None)
    return Weigher(rule, gauge, InitialLosses(tasks, None, 1), "budget", None)


def sums(losses: list[float], norms: list[float], count: float = 1.0) -> TaskSums:
    n = torch.tensor([0.0 if x != x else count for x in losses], dtype=torch.float64)
    loss, norm = (torch.tensor(x, dtype=torch.float64) for x in (losses, norms))
    zero, none = torch.zeros_like(n), torch.zeros(0, 0, dtype=torch.float64)
    return TaskSums(TASKS, torch.where(n > 0, loss * n, 0.0), n, n, (norm * n) ** 2, none, zero, zero)


def test_weights_are_the_rules_under_the_budget_whatever_the_number_of_terms() -> None:
    for count in (1.0, 7.0, 1e6):
        one = weigher(GradNorm(0.0))
        one.update(one.gathered(sums([2.0, 3.0], [1.0, 9.0], count), alone=True))
        torch.testing.assert_close(one.weights * torch.tensor([1.0, 9.0]), torch.full((2,), 5.0, dtype=torch.float64))


def test_a_provisional_update_sets_the_weights_and_nothing_else() -> None:
    one = weigher(GradNorm(1.0))
    before = {name: value for name, value in one.state_dict().items() if "known" not in name and name != "weights"}
    one.told = {"a": [0.5]}
    one.update(one.gathered(sums([2.0, 3.0], [1.0, 9.0]), alone=True, provisional=True), provisional=True)
    assert one.told == {"a": [0.5]}
    assert not torch.equal(one.weights, torch.ones(2, dtype=torch.float64))
    after = one.state_dict()
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)
    assert int(one.known.updates) == 0


def test_kpis_reach_the_rule_once_as_their_mean() -> None:
    one = weigher(DynamicTaskPriority(gamma=1.0, smoothing=0.0))
    one.told = {"a": [0.25, 0.75], "b": [0.1]}
    gathered = one.gathered(sums([1.0, 1.0], [1.0, 1.0]), alone=True)
    torch.testing.assert_close(gathered.told, torch.tensor([0.5, 0.1], dtype=torch.float64))
    assert one.told == {}
    one.update(gathered)
    torch.testing.assert_close(
        one.weights[1] / one.weights[0], torch.tensor(2.0723 / 0.34657).double(), rtol=1e-4, atol=0
    )


def test_a_task_that_is_absent_or_without_gradient_keeps_its_weight() -> None:
    for losses, norms in (([2.0, torch.nan], [1.0, 0.0]), ([2.0, 3.0], [1.0, 0.0]), ([2.0, 3.0], [1.0, torch.inf])):
        one = weigher(GradNorm(0.0))
        one.weights.copy_(torch.tensor([0.25, 1.75]))
        one.update(one.gathered(sums(losses, norms), alone=True))
        assert one.weights.tolist() == [1.0, 1.75]


def test_state_of_other_tasks_is_refused_and_told_kpis_are_kept() -> None:
    one, other = weigher(UnitNorm()), weigher(UnitNorm(), ("a", "c"))
    one.told = {"b": [0.5]}
    with pytest.raises(ValueError, match="a, b; this one has a, c"):
        other.load_state_dict(one.state_dict())
    same = weigher(UnitNorm())
    same.load_state_dict(one.state_dict())
    assert same.told == {"b": [0.5]}


def test_what_is_measured_is_what_the_rule_or_the_budget_needs() -> None:
    assert what_to_read(UnitNorm(), "sum", gram=False) == "losses"
    assert what_to_read(UnitNorm(), "budget", gram=False) == "norms"
    assert what_to_read(GradNorm(1.0), "none", gram=False) == "norms"
    assert what_to_read(UnitNorm(), "none", gram=True) == "gram"
    assert what_to_read(Surgery(torch.diag), "sum", gram=False) == "gram"
