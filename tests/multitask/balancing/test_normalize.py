"""What of the step the weights keep, at any scale of weights and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.multitask.seen import on_meta, seen
from torch import Tensor

from truestep.multitask.balancing._normalize import Normalize, normalized, step_factor, trunk_factor

ALL: tuple[Normalize, ...] = ("budget", "sum", "none")
POWERS = st.lists(st.integers(-10, 10), min_size=4, max_size=4)
SOME = torch.tensor([True, True, False, True])


def at(powers: list[int]) -> Tensor:
    return 10.0 ** torch.tensor(powers, dtype=torch.float64) * (0.5 + torch.rand(4, dtype=torch.float64))


def assert_near(found: Tensor, expected: Tensor | float) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@settings(max_examples=25)
@given(POWERS, POWERS, st.lists(st.integers(-3, 3), min_size=4, max_size=4))
def test_budget_and_sum_keep_what_they_say_over_active_tasks_and_the_proportions(
    raws: list[int], norms: list[int], before: list[int]
) -> None:
    raw, g, old = at(raws), at(norms), at(before)
    readings = seen(norms=g, weights=old, active=SOME)
    budget, total = normalized(raw, readings, "budget"), normalized(raw, readings, "sum")
    assert_near((budget * g)[SOME].sum(), g[SOME].sum())
    assert_near(step_factor(budget, g, SOME), 1.0)
    assert_near(total[SOME].sum(), old[SOME].sum())
    for found in (budget, total):
        assert_near((found / raw)[SOME], (found / raw)[0].expand(3))
        assert found[2] == old[2]


@settings(max_examples=25)
@given(st.integers(-10, 10), st.integers(-10, 10))
def test_a_factor_of_the_rules_weights_or_of_all_norms_does_not_matter(one: int, other: int) -> None:
    raw, g = at([0, 1, 2, 3]), at([0, 2, 1, -1])
    for way in ("budget", "sum"):
        found = normalized(10.0**one * raw, seen(norms=10.0**other * g), way)
        assert_near(found, normalized(raw, seen(norms=g), way))


def test_the_weights_sum_stays_t_however_many_tasks_are_absent_from_each_update() -> None:
    weights = torch.ones(4, dtype=torch.float64)
    for _ in range(20):
        weights = normalized(at([0] * 4), seen(weights=weights, active=torch.rand(4) < 0.6), "sum")
    assert_near(weights.sum(), 4.0)


def test_none_takes_the_rules_weights_as_they_are() -> None:
    raw, old = at([-5, 5, 0, 1]), at([0] * 4)
    found = normalized(raw, seen(weights=old, active=SOME), "none")
    assert found.equal(torch.where(SOME, raw, old))


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_active_may_be_anything_and_stays(way: Normalize, bad: float) -> None:
    raw, g, old = (torch.where(SOME, at([0] * 4), bad) for _ in range(3))
    old[2] = 7.0
    found = normalized(raw, seen(norms=g, weights=old, active=SOME), way)
    rest = normalized(raw[SOME], seen(norms=g[SOME], weights=old[SOME]), way)
    assert found[2] == 7.0
    assert_near(found[SOME], rest)


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_task_to_which_the_rule_gives_no_number_counts_as_absent(way: Normalize, bad: float) -> None:
    raw, g, old = at([0] * 4), at([1] * 4), at([0] * 4)
    found = normalized(torch.where(SOME, raw, bad), seen(norms=g, weights=old), way)
    assert found.equal(normalized(raw, seen(norms=g, weights=old, active=SOME), way))


@pytest.mark.parametrize("way", ["budget", "sum"])
@pytest.mark.parametrize("raw", [0.0, -1.0, torch.nan, 1e-320])
def test_weights_stay_where_there_is_no_positive_finite_factor(way: Normalize, raw: float) -> None:
    old = at([0] * 4)
    readings = seen(norms=at([0] * 4), weights=old)
    assert normalized(torch.full_like(old, raw), readings, way).equal(old)


@pytest.mark.parametrize("way", ALL)
def test_weights_stay_where_no_task_is_active(way: Normalize) -> None:
    old = at([0] * 4)
    assert normalized(at([0] * 4), seen(norms=old, weights=old, active=[False] * 4), way).equal(old)


def test_weights_stay_under_budget_where_no_norm_is_known() -> None:
    old = at([0] * 4)
    assert normalized(at([0] * 4), seen(weights=old), "budget").equal(old)


def test_the_hand_worked_step_factor() -> None:
    weights, norms = torch.tensor([[2.0, 0.5, 9.0], [1.0, 3.0, torch.nan]], dtype=torch.float64)
    assert step_factor(weights, norms, torch.tensor([True, True, False])).item() == 0.875
    assert step_factor(weights, norms, torch.tensor([False] * 3)).isnan()
    assert step_factor(weights, norms, torch.tensor([True] * 3)).isnan()


@settings(max_examples=25)
@given(POWERS, POWERS)
def test_the_trunk_factor_is_that_of_the_explicit_vectors(scales: list[int], raws: list[int]) -> None:
    vectors = torch.randn(4, 30, dtype=torch.float64) * at(scales)[:, None]
    weights = at(raws)
    expected = (weights @ vectors).norm() / vectors.sum(0).norm()
    torch.testing.assert_close(trunk_factor(weights, vectors @ vectors.T, SOME | True), expected, rtol=1e-10, atol=0)


def test_the_trunk_factor_of_opposing_tasks_is_worked_out_by_hand() -> None:
    vectors = torch.tensor([[3.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    both = torch.tensor([True, True])
    weights = torch.tensor([0.5, 2.5], dtype=torch.float64)
    assert trunk_factor(weights, vectors @ vectors.T, both).item() == 0.5  # |1.5 - 2.5| / |3 - 1|
    assert step_factor(weights, vectors.norm(dim=1), both).item() == 1.0  # the budget does not see it


def test_parallel_gradients_have_one_factor_and_weights_of_one_have_the_factor_one() -> None:
    norms, weights = at([0, 1, 2, 1]), at([0] * 4)
    gram = torch.outer(norms, norms)
    assert_near(trunk_factor(weights, gram, SOME), step_factor(weights, norms, SOME))
    assert_near(trunk_factor(torch.ones_like(weights), gram, SOME), 1.0)


def test_weighted_gradients_that_cancel_to_less_than_rounding_give_zero_and_not_nan() -> None:
    gram = torch.tensor([[1.0, -1.0 - 1e-15], [-1.0 - 1e-15, 1.0]], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    wider = torch.block_diag(gram, torch.ones(1, 1, dtype=torch.float64))
    assert trunk_factor(torch.cat([one, 0 * one[:1]]), wider, torch.ones(3, dtype=torch.bool)).item() == 0.0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_the_trunk_factor_reads_active_tasks_alone(bad: float) -> None:
    vectors, weights = torch.randn(4, 9, dtype=torch.float64), at([0] * 4)
    gram = vectors @ vectors.T
    expected = trunk_factor(weights[SOME], gram[SOME][:, SOME], SOME[SOME])
    gram[2, :] = gram[:, 2] = weights[2] = bad
    assert_near(trunk_factor(weights, gram, SOME), expected)
    assert trunk_factor(weights, torch.full_like(gram, torch.nan), SOME).isnan()


@pytest.mark.parametrize("way", ALL)
def test_nothing_is_read_on_the_host(way: Normalize) -> None:
    readings = on_meta(seen(norms=at([0] * 4)))
    weights = normalized(readings.weights, readings, way)
    assert weights.is_meta
    assert step_factor(weights, readings.norms, readings.active).is_meta
    assert trunk_factor(weights, torch.outer(weights, weights), readings.active).is_meta
