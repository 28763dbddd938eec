"""Weights that stay are those given, to the last bit, whatever is seen."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.multitask.seen import on_meta, seen

from truestep.multitask import Constant

TASKS = ("a", "b")
EVIL = seen(losses=[torch.nan, -1.0], norms=[0.0, torch.inf], weights=[3.0, torch.nan], active=[True, False])


def started(rule: Constant) -> Constant:
    rule.start(TASKS)
    return rule


@settings(max_examples=25)
@given(st.floats(0, 1e10), st.floats(1e-10, 1e10))
def test_the_weights_are_those_given_in_the_tasks_order_whatever_is_seen(a: float, b: float) -> None:
    rule = started(Constant({"b": b, "a": a}))
    for _ in range(2):
        assert rule.weigh(EVIL).tolist() == [a, b]


def test_the_plain_sum_where_none_are_given() -> None:
    assert started(Constant()).weigh(EVIL).tolist() == [1.0, 1.0]
    losses = torch.tensor([1.0, 4.0, -2.0])
    assert Constant()(losses) == losses.sum()


def test_whole_numbers_are_weights_too() -> None:
    assert started(Constant({"a": 2, "b": 0})).weigh(EVIL).tolist() == [2.0, 0.0]


def test_writing_to_what_it_gives_or_to_what_it_was_given_does_not_change_it() -> None:
    mine = {"a": 2.0, "b": 3.0}
    rule = Constant(mine)
    mine["a"] = 7.0
    started(rule).weigh(EVIL).zero_()
    assert rule.weigh(EVIL).tolist() == [2.0, 3.0]


def test_a_copy_and_a_state_hold_the_weights() -> None:
    rule = started(Constant({"a": 1 / 3, "b": 5.0}))
    other = started(Constant())
    other.load_state_dict(rule.state_dict())
    assert other.weigh(EVIL).equal(rule.weigh(EVIL))
    assert copy.deepcopy(rule).weigh(EVIL).equal(rule.weigh(EVIL))


def test_nothing_is_read_on_the_host() -> None:
    assert started(Constant()).to("meta").weigh(on_meta(EVIL)).is_meta


def test_losses_of_any_sign_are_taken_and_no_gradient_is_read() -> None:
    assert not Constant.positive
    assert Constant.reads == "losses"


@pytest.mark.parametrize("weight", [-1.0, torch.inf, -torch.inf, torch.nan])
def test_a_weight_that_is_negative_or_not_finite_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"`weights` must be finite and not negative; found \{'b': "):
        Constant({"a": 1.0, "b": weight})


@pytest.mark.parametrize("given", [{}, {"a": 1.0}, {"a": 1.0, "b": 1.0, "x": 1.0}, {"a": 1.0, "x": 1.0}])
def test_every_task_needs_a_weight_and_every_weight_a_task(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="`weights` must name each task once: a, b; found"):
        started(Constant(given))


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="not zero"):
        Constant({"a": 0.0, "b": 0.0})
