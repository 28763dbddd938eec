"""Where each task's loss began: given, or the mean of its own first positive losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truestep.multitask.balancing._initial import InitialLosses

TASKS = ("a", "b", "c")
ALL = torch.tensor([True, True, True])


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def fed(state: InitialLosses, *batches: Tensor, active: Tensor = ALL) -> Tensor:
    """L(0) after these batches."""
    for losses in batches:
        state.keep(*state.after(losses, active))
    return state.total / state.count


@settings(max_examples=25)
@given(st.lists(st.floats(1e-10, 1e10), min_size=3, max_size=3))
def test_the_first_loss_is_the_start_and_its_ratio_is_one_to_the_last_bit(first: list[float]) -> None:
    total, count = InitialLosses(TASKS, None, 1).after(vector(*first), ALL)
    assert (vector(*first) * count / total).tolist() == [1.0, 1.0, 1.0]


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(-10, 10))
def test_the_start_is_the_mean_of_the_first_batches_and_no_later_one_moves_it(number: int, power: int) -> None:
    losses = 10.0**power * (0.1 + torch.rand(number + 3, 3, dtype=torch.float64))
    found = fed(InitialLosses(TASKS, None, number), *losses)
    torch.testing.assert_close(found, losses[:number].mean(0), rtol=1e-14, atol=0)


def test_until_all_batches_have_come_the_start_is_the_mean_so_far() -> None:
    state = InitialLosses(TASKS, None, 3)
    assert fed(state, vector(1, 2, 3)).tolist() == [1.0, 2.0, 3.0]
    assert fed(state, vector(3, 2, 1)).tolist() == [2.0, 2.0, 2.0]


def test_a_given_start_stays_and_the_others_are_found() -> None:
    state = InitialLosses(TASKS, {"c": 0.1, "a": 7}, 3)
    assert fed(state, *(vector(1, 2, 3),) * 5).tolist() == pytest.approx([7.0, 2.0, 0.1], rel=1e-15)


def test_a_task_that_appears_late_begins_late_with_as_many_batches() -> None:
    state = InitialLosses(TASKS, None, 2)
    here = torch.tensor([True, False, True])
    fed(state, vector(1, torch.nan, 1), vector(1, torch.nan, 1), vector(9, torch.nan, 9), active=here)
    assert fed(state).isnan().tolist() == [False, True, False]
    assert fed(state, vector(9, 4, 9), vector(9, 8, 9), vector(9, 99, 9)).tolist() == [1.0, 6.0, 1.0]


@pytest.mark.parametrize("bad", [0.0, -1.0, torch.nan, -torch.inf])
def test_a_loss_without_a_ratio_is_left_out_and_does_not_count_as_a_batch(bad: float) -> None:
    state = InitialLosses(TASKS, None, 2)
    assert fed(state, vector(2, bad, 2)).isnan().tolist() == [False, True, False]
    assert fed(state, vector(4, 3, 4), vector(9, 5, 9), vector(9, 99, 9)).tolist() == [3.0, 4.0, 3.0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 5.0])
def test_what_a_task_that_is_not_active_shows_leaves_no_trace(bad: float) -> None:
    state = InitialLosses(TASKS, None, 2)
    fed(state, vector(1, bad, 1), active=torch.tensor([True, False, True]))
    assert (state.total[1], state.count[1]) == (0.0, 0.0)


def test_looking_ahead_keeps_nothing() -> None:
    state = InitialLosses(TASKS, None, 1)
    state.after(vector(1, 2, 3), ALL)
    assert state.total.tolist() == state.count.tolist() == [0.0, 0.0, 0.0]


def test_the_state_is_saved_whole_and_written_in_place() -> None:
    one, other = InitialLosses(TASKS, None, 2), InitialLosses(TASKS, None, 2)
    places = one.total.data_ptr(), one.count.data_ptr()
    fed(one, vector(1, 2, 3))
    assert places == (one.total.data_ptr(), one.count.data_ptr())
    other.load_state_dict(one.state_dict())
    assert fed(other, vector(3, 3, 3)).equal(fed(one, vector(3, 3, 3)))
    assert one.half().total.dtype == torch.float64


def test_nothing_is_read_on_the_host() -> None:
    state = InitialLosses(TASKS, None, 2).to("meta")
    assert fed(state, vector(1, 2, 3).to("meta"), active=ALL.to("meta")).is_meta


@pytest.mark.parametrize("given", [{"a": 0.0}, {"a": -1.0}, {"a": torch.inf}, {"a": torch.nan}, {"b": 1.0, "x": 1.0}])
def test_a_given_loss_must_be_positive_and_finite_and_of_a_task(given: dict[str, float]) -> None:
    name = "x" if "x" in given else "a"
    with pytest.raises(ValueError, match=rf"`initial` must give a positive .* \(a, b, c\); found '{name}': "):
        InitialLosses(TASKS, given, 1)


@pytest.mark.parametrize("batches", [0, -1, True, 1.0, None])
def test_the_number_of_batches_is_a_positive_int(batches: Any, unchecked: None) -> None:
    with pytest.raises(ValueError, match=f"`initial_batches` must be a positive int; found {batches}"):
        InitialLosses(TASKS, None, batches)
