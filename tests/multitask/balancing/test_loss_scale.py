"""The loss scale of a task brings its float16 gradients near 1, whatever their size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truestep.multitask.balancing._heads import head_gradients
from truestep.multitask.balancing._loss_scale import (
    MOST,
    NEAR,
    START,
    STEP,
    TRIES,
    LossScale,
    is_near,
    next_scale,
    seeds,
)
from truestep.multitask.balancing._measure import squares_of
from truestep.multitask.balancing._split import Split

TASKS = ("a", "b", "c")


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=25)
@given(st.floats(-4, 4), st.integers(-10, 10), st.integers(1, 10**6))
def test_the_next_scale_brings_the_root_mean_square_between_one_and_two(power: float, now: int, elements: int) -> None:
    scale, root = vector(2.0**now), 10.0**power  # of the scaled gradient
    wanted = next_scale(scale, vector(elements * root**2), elements)
    after = root * wanted / scale
    at_the_end = wanted in (1 / MOST, MOST)
    assert at_the_end or 1 - 1e-9 <= after <= 2 + 1e-9
    assert torch.frexp(wanted)[0] == 0.5  # a power of two rounds nothing


@settings(max_examples=25)
@given(st.floats(-3, 3), st.integers(-4, 4))
def test_what_is_wanted_does_not_depend_on_the_scale_so_far(power: float, now: int) -> None:
    plain = next_scale(vector(1.0), vector(10.0 ** (2 * power)), 1)
    assert next_scale(vector(2.0**now), vector(4.0**now * 10.0 ** (2 * power)), 1) == plain


def test_an_underflow_and_an_overflow_move_the_scale_by_a_step() -> None:
    found = next_scale(vector(*[4.0] * 4), vector(0.0, torch.inf, torch.nan, 16.0 * 9), 9)
    assert found.tolist() == [4 * STEP, 4 / STEP, 4 / STEP, 1.0]


def test_the_scale_and_its_inverse_stay_numbers_of_float16() -> None:
    assert next_scale(vector(MOST, 1 / MOST), vector(0.0, torch.inf), 9).tolist() == [MOST, 1 / MOST]
    assert next_scale(vector(1.0, 1.0), vector(1e-300, 1e300), 9).tolist() == [MOST, 1 / MOST]
    assert torch.tensor([MOST, 1 / MOST, 2 * MOST]).half().isfinite().tolist() == [True, True, False]


def test_no_elements_do_no_harm() -> None:
    assert next_scale(vector(4.0), vector(0.0), 0).item() == 4 * STEP


def test_near_is_a_factor_either_way_for_every_task() -> None:
    one = vector(1.0, 1.0)
    assert is_near(one, vector(NEAR, 1 / NEAR))
    assert not is_near(one, vector(1.0, 2 * NEAR))
    assert not is_near(one, vector(0.5 / NEAR, 1.0))


class Heads:
    """Linear heads on float16 features: the gradient of each loss is its unit in every entry."""

    def __init__(self, units: dict[str, float]) -> None:
        self.units, self.tries = units, 0
        z = torch.ones(4, 8, dtype=torch.float16, requires_grad=True) * 1
        self.split = Split(z, TASKS, apart=True)
        self.losses = {task: unit * self.split.views[task].float().sum() for task, unit in units.items()}

    def gradients(self, scale: Any) -> Any:
        return head_gradients(self.losses, self.split, scale)

    def squares(self, scale: Any) -> Any:
        self.tries += 1
        return squares_of(self.gradients(scale))


UNITS = {"a": 1e-9, "b": 1.0, "c": 1e3}


def test_without_a_scale_a_gradient_of_a_billionth_is_lost_in_float16_and_with_it_not() -> None:
    heads, state = Heads(UNITS), LossScale(TASKS)
    assert not heads.gradients(None)["a"][0].any()
    scale = state.fitting(heads.squares, 32, half=True)
    found = heads.gradients(seeds(TASKS, scale))
    for task, s in zip(TASKS, scale.tolist(), strict=True):
        g = found[task][0].double() / s
        torch.testing.assert_close(g, torch.full_like(g, UNITS[task]), rtol=1e-2 if task == "a" else 1e-3, atol=0)


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1e3, 1e7])
def test_the_first_scale_is_found_from_gradients_of_any_size(unit: float) -> None:
    heads = Heads(dict.fromkeys(TASKS, unit))
    scale = LossScale(TASKS).fitting(heads.squares, 32, half=True)
    after = scale * unit
    assert scale.equal(scale[:1].expand(3))
    assert bool(((after > 0.5 / NEAR) & (after < 2 * NEAR)).all()) or scale[0] in (MOST, 1 / MOST)
    assert heads.tries < TRIES


def test_a_scale_that_never_fits_is_tried_no_longer_than_said() -> None:
    tried: list[float] = []

    def squares(scale: Any) -> Any:
        tried.append(scale["a"].item())
        return {"a": torch.tensor(torch.inf if len(tried) % 2 else 0.0, dtype=torch.float64)}

    LossScale(TASKS).fitting(squares, 1, half=True)
    assert tried == [START, START / STEP] * (TRIES // 2)


def test_a_scale_once_found_is_tried_no_more_and_no_one_else_writes_to_it() -> None:
    heads, state = Heads(UNITS), LossScale(TASKS)
    first = state.fitting(heads.squares, 32, half=True)
    again = Heads(dict.fromkeys(TASKS, 1e-2))
    assert state.fitting(again.squares, 32, half=True).equal(first)
    assert again.tries == 0
    first.zero_()
    state.fitting(again.squares, 32, half=True).zero_()
    assert bool((state.scale > 0).all())


def test_the_scale_follows_the_tasks_that_were_measured() -> None:
    state = LossScale(TASKS)
    state.follow({"b": torch.tensor(32 / 4).double(), "a": torch.tensor(32.0 * 4).double()}, 32)
    assert (state.scale / START).tolist() == [0.5, 2.0, 1.0]


def test_outside_half_precision_the_scale_is_one_and_nothing_is_tried() -> None:
    heads, state = Heads(UNITS), LossScale(TASKS)
    assert state.fitting(heads.squares, 32, half=False).tolist() == [1.0] * 3
    assert heads.tries == 0
    assert not state.found
    assert state.scale.tolist() == [START] * 3


def test_seeds_are_one_number_a_task_by_name() -> None:
    found = seeds(TASKS, vector(1.0, 2.0, 0.5))
    assert all(s.dtype == torch.float32 for s in found.values())
    assert {t: s.item() for t, s in found.items()} == {"a": 1.0, "b": 2.0, "c": 0.5}


def test_a_models_number_format_does_not_round_the_scale() -> None:
    state = LossScale(TASKS).half()
    assert state.scale.dtype == torch.float64
    assert state.state_dict()["scale"].tolist() == [START] * 3
