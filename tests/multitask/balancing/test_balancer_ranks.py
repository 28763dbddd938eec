"""Ranks that share a batch hold the same weights, bit for bit, and those of one process on all of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.gloo import seen_by_ranks
from tests.multitask.nets import Vectors, assert_near, batch, net, step, true_gradients, true_norms, weighted
from tests.multitask.ranks import PLACES, ROWS, STEPS, UNEVEN, WORLD, balancer_of, cut, numbers

TASKS = "abc"
DDP = [(place, unused) for place in ("z", "weight") for unused in (False, True)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return seen_by_ranks("tests.multitask.ranks", WORLD, tmp_path_factory.mktemp("ranks"))


def assert_same_numbers(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for key in ("weights", "norms", "ratios"):
        assert_near(found[key], expected[key])
    for mine, other in zip(found["factors"], expected["factors"], strict=True):
        assert mine == pytest.approx(other, rel=1e-12, nan_ok=True)


def assert_same(found: Vectors, expected: Vectors) -> None:
    """Gradients by name; those that are zero may be missing."""
    for name, value in expected.items():
        mine = found.get(name, torch.zeros_like(value))
        assert (mine - value).norm() <= 1e-12 * value.norm(), name


def test_ranks_hold_the_same_state_bit_for_bit(ranks: list[dict[str, Any]]) -> None:
    for name, here in ranks[0].items():
        if name in ("groups", "refused", "static"):
            continue
        there = ranks[1][name]
        for mine, other in zip(here, there, strict=True):
            assert str(mine[0] if isinstance(mine, tuple) else mine) == str(
                other[0] if isinstance(other, tuple) else other
            ), name


@pytest.mark.parametrize("place", PLACES)
def test_uneven_ranks_and_absent_tasks_give_the_weights_of_one_process(ranks: list[dict[str, Any]], place: str) -> None:
    model = net()
    balancer = balancer_of(model, place)
    for seed, seen in enumerate(ranks[0][f"shared, {place}"]):
        x, y = batch(sum(UNEVEN), seed=seed)
        if seed == 3:  # rank 1 had nothing
            x, y = cut(seed, UNEVEN, 0)
        losses = model.losses(balancer.split(model.trunk(x)), y, "none")
        there = torch.arange(8) < UNEVEN[0]
        balancer.total(losses, mask={"b": there} if seed == 2 else None)
        assert_same_numbers(seen, numbers(balancer))


@pytest.mark.parametrize("place", PLACES)
def test_uneven_micro_batches_of_uneven_ranks_give_the_norms_of_all_of_them(
    ranks: list[dict[str, Any]], place: str
) -> None:
    model = net()
    one = balancer_of(model, place)
    expected = []
    for seed in range(STEPS):
        step(model, one, *batch(10, seed=seed))
        expected.append(numbers(one))
    for before, seen in zip(expected, ranks[0][f"windows, {place}"][1:], strict=False):
        assert_same_numbers(seen, before)


@pytest.mark.parametrize(("place", "unused"), DDP)
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_under_ddp_weights_and_gradients_are_those_of_one_process(
    ranks: list[dict[str, Any]], where: str, place: str, unused: bool
) -> None:
    model = net()
    one = balancer_of(model, place)
    for rank in range(WORLD):
        one = balancer_of(model, place)
        for seed, (seen, gradients) in enumerate(ranks[rank][f"{where}, {place}, {unused}"]):
            x, y = batch(ROWS, seed=seed)
            step(model, one, x, y)
            assert_same_numbers(seen, numbers(one))
            assert_same(gradients, weighted(seen["weights"], true_gradients(model, x, y)))


@pytest.mark.parametrize(("place", "unused"), DDP)
def test_under_no_sync_a_window_has_one_set_of_weights_from_all_of_the_one_before(
    ranks: list[dict[str, Any]], place: str, unused: bool
) -> None:
    model = net()
    before: dict[str, Any] = {}
    one = balancer_of(model, place)
    for seed, (seen, gradients) in enumerate(ranks[1][f"no_sync, {place}, {unused}"]):
        x, y = batch(2 * ROWS, seed=seed)
        if before:
            assert_same_numbers(seen, before)
        expected = weighted(seen["weights"], true_gradients(model, x, y))
        assert_same(gradients, {name: 2 * g for name, g in expected.items()})  # two means were added up
        step(model, one, x, y)
        before = numbers(one)


@pytest.mark.parametrize("lacks", ["b", "all"])
def test_a_rank_without_a_task_or_without_any_joins_the_update_and_the_backward(
    ranks: list[dict[str, Any]], lacks: str
) -> None:
    model = net()
    gone = TASKS if lacks == "all" else lacks
    for rank in range(WORLD):
        for seed, (seen, gradients) in enumerate(ranks[rank][f"lacks {lacks}"]):
            halves = [cut(seed, [4, 4], i) for i in range(WORLD)]
            x, y = halves[0]
            lone = {t: target for t, target in y.items() if t in gone}
            norms = true_norms(model, x, lone)
            if lacks == "b":
                norms |= {t: v for t, v in true_norms(model, *batch(ROWS, seed=seed)).items() if t not in gone}
            assert_near(seen["norms"], norms)
            parts = true_gradients(model, x, y)
            other = true_gradients(model, *halves[1])
            total = weighted(seen["weights"], parts)
            if lacks == "b":
                some = weighted(seen["weights"], {t: g for t, g in other.items() if t not in gone})
                total = {name: total[name] + some[name] for name in total}
            assert_same(gradients, {name: g / WORLD for name, g in total.items()})  # DDP's mean


def test_kpis_of_any_rank_count_once_each_though_ddp_broadcasts_buffers(ranks: list[dict[str, Any]]) -> None:
    def weight(*told: float) -> float:
        mean = torch.tensor(told, dtype=torch.float64).mean()
        return (-(1 - mean) * mean.log()).item()

    first, second, third = ranks[0]["kpis"]
    assert_near({t: first[t] for t in "ab"}, {"a": weight(0.5), "b": weight(0.25)})
    assert_near(second, {"a": weight(0.1, 0.2), "b": weight(0.25), "c": weight(0.3)})
    assert third == second


def test_a_group_of_one_is_alone_and_a_copy_shares_its_group(ranks: list[dict[str, Any]]) -> None:
    model = net()
    for name, rows in (("alone", None), ("both", 8)):
        for rank in range(WORLD):
            seen, shared = ranks[rank]["groups"][name]
            one = balancer_of(model, "weight")
            step(model, one, *(cut(0, [4, 4], rank) if rows is None else batch(rows, seed=0)))
            assert_same_numbers(seen, numbers(one))
            assert shared
    assert "cannot pickle" in ranks[0]["groups"]["pickle"]  # torch's groups cannot; state_dict is for that


def test_a_loss_that_is_bad_on_one_rank_is_refused_by_all_at_once(ranks: list[dict[str, Any]]) -> None:
    said = ranks[0]["refused"]
    assert said == ranks[1]["refused"]
    assert [bool(text) for text in said] == [False, True, False, False, False, True, False, False]
    assert all("the loss of task 'b' is nan" in text for text in said if text)


def test_ddps_static_graph_is_refused_since_it_takes_the_heads_pass_for_the_backward(
    ranks: list[dict[str, Any]],
) -> None:
    assert all("leave `static_graph` False" in seen["static"] for seen in ranks)
