"""What all rules have in common, on one that weighs by the inverse loss."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.multitask.seen import on_meta, seen
from torch import Tensor

from truestep.multitask._rule import AbstractRule, PerTask, Readings, kept, mean_over, only

TASKS = ("a", "b")
POWERS = st.lists(st.integers(-10, 10), min_size=3, max_size=3)


class Inverse(AbstractRule):
    """1/L, and 0.5 a call so far beside the losses."""

    _calls: Tensor

    def __init__(self, unit: float = 1.0, other: str = "") -> None:
        super().__init__()
        self._unit = unit

    def _make(self, tasks: tuple[str, ...]) -> None:
        self.register_buffer("_calls", torch.zeros(len(tasks), dtype=torch.float64))

    def weigh(self, seen: Readings) -> PerTask:
        self.last = seen
        self._calls.copy_(self._calls + 1)
        return self._unit / seen.losses

    def penalty(self) -> Tensor:
        return 0.5 * self._calls[0]


class Plain(AbstractRule):
    """The least that a rule is."""

    def weigh(self, seen: Readings) -> PerTask:
        return torch.ones_like(seen.losses)


class ByNorm(Plain):
    reads = "norms"


class ByGram(Plain):
    reads = "gram"


def test_a_rule_takes_its_tasks_once_and_makes_its_state_for_them() -> None:
    rule = Inverse()
    rule.start(TASKS)
    assert rule.tasks == TASKS
    assert rule.state_dict()["_calls"].shape == (2,)
    for tasks in (TASKS, ("x",)):
        with pytest.raises(ValueError, match="this Inverse weighs a, b already: build one for each balancer"):
            rule.start(tasks)
    assert rule.tasks == TASKS


def test_a_rule_without_state_adds_nothing_to_the_losses_and_saves_nothing() -> None:
    rule = Plain()
    rule.start(TASKS)
    assert rule.state_dict() == {}
    assert rule.penalty().item() == 0.0
    assert rule(torch.tensor([2.0, -3.0])).item() == -1.0


def test_a_rule_is_careful_until_it_says_otherwise_and_must_say_how_it_weighs() -> None:
    assert (Plain.reads, Plain.positive) == ("losses", True)
    with pytest.raises(TypeError, match="abstract"):
        AbstractRule()


@settings(max_examples=25)
@given(POWERS)
def test_called_with_values_it_is_their_weighted_sum_and_what_it_adds(powers: list[int]) -> None:
    values = (10.0 ** torch.tensor(powers, dtype=torch.float64)).requires_grad_()
    rule = Inverse(unit=3.0)
    total = rule(values)
    assert total.item() == pytest.approx(9.5, rel=1e-14)  # with the penalty of these weights, not of those before
    total.backward()
    torch.testing.assert_close(values.grad, 3 / values.detach(), rtol=1e-14, atol=0)  # weights are constants
    assert rule.tasks == ("0", "1", "2")
    assert rule(values).item() == pytest.approx(10.0, rel=1e-14)


def test_called_with_values_it_sees_losses_in_float64_and_that_the_rest_is_unknown() -> None:
    rule = Inverse()
    rule(torch.tensor([2.0, torch.nan, 4.0], requires_grad=True))
    assert rule.last.losses.dtype == torch.float64
    assert not rule.last.losses.requires_grad
    assert rule.last.losses[[0, 2]].tolist() == [2.0, 4.0]
    assert rule.last.active.tolist() == [True, False, True]
    assert rule.last.weights.tolist() == [1.0, 1.0, 1.0]
    assert rule.last.norms.isnan().all()
    assert rule.last.ratios.isnan().all()
    assert rule.last.gram is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_scalar_has_the_values_number_format(dtype: torch.dtype) -> None:
    assert Inverse()(torch.ones(2, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("rule", [ByNorm, ByGram])
def test_a_rule_that_reads_gradients_cannot_be_called_with_values(rule: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"{rule.__name__} reads the tasks' gradients: give it to a Balancer, and split"
    ):
        rule()(torch.ones(2))


def test_its_text_shows_the_settings_it_was_given() -> None:
    assert repr(Inverse(2.0, "not kept")) == "Inverse(unit=2.0)"
    assert repr(Plain()) == "Plain()"


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_only_and_kept_and_mean_over_let_nothing_through_that_is_not_active(bad: float) -> None:
    active = torch.tensor([True, False, True])
    x = torch.tensor([1.0, bad, 5.0], dtype=torch.float64)
    assert only(active, x).tolist() == [1.0, 0.0, 5.0]
    assert kept(active, x, torch.tensor([bad, 9.0, bad], dtype=torch.float64)).tolist() == [1.0, 9.0, 5.0]
    assert mean_over(active, x).item() == 3.0
    assert mean_over(torch.tensor([False] * 3), x).isnan()


def test_helpers_and_calls_read_nothing_on_the_host() -> None:
    far = on_meta(seen([1.0, 2.0]))
    assert only(far.active, far.losses).is_meta
    assert mean_over(far.active, far.losses).is_meta
    assert Inverse()(far.losses).is_meta


def test_readings_are_documented_field_by_field() -> None:
    told = inspect.getdoc(Readings).partition("Args:")[2]
    assert all(f"\n    {name}: " in told for name in Readings.__dataclass_fields__)
