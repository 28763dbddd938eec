"""Windows of micro-batches: one set of weights in each, from the norms that the whole batch before would have shown."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.multitask.nets import (
    UNITS,
    Net,
    Vectors,
    assert_near,
    assert_same_gradient,
    batch,
    counted,
    net,
    step,
    true_gradients,
    true_norms,
    weighted,
)
from torch import Tensor

from truestep.multitask import Balancer, Report
from truestep.multitask._gradnorm import GradNorm
from truestep.multitask._unit_norm import UnitNorm

CUTS = {"even": [4, 4, 4], "uneven": [1, 8, 3]}
PLACES: dict[str, dict[str, Any]] = {
    "z": {},
    "z, gram": {"gram": True},
    "weight": {"layer": True},
    "weight, gram": {"layer": True, "gram": True},
}


def balancer_of(model: Net, place: str, accumulate: int | None, smoothing: float = 0, **settings: Any) -> Balancer:
    layer = model.trunk[2] if PLACES[place].get("layer") else None
    given = PLACES[place] | settings | {"layer": layer}
    return Balancer(GradNorm(1.0, smoothing=smoothing), "abc", accumulate=accumulate, **given)


def cut(x: Tensor, y: Vectors, rows: list[int]) -> list[tuple[Tensor, Vectors]]:
    parts = {task: target.split(rows) for task, target in y.items()}
    return [(part, {task: parts[task][i] for task in y}) for i, part in enumerate(x.split(rows))]


def window(model: Net, balancer: Balancer, parts: list[tuple[Tensor, Vectors]]) -> list[dict[str, float]]:
    """The weights of each micro-batch's total, as its gradient by the losses shows them."""
    weights = []
    for x, y in parts:
        model.zero_grad()
        losses = model.losses(balancer.split(model.trunk(x)), y)
        total = balancer.total(losses, count=dict.fromkeys(y, len(x)))
        weights.append({t: torch.autograd.grad(total, losses[t], retain_graph=True)[0].item() for t in y})
        total.backward()
    return weights


def settled(model: Net, balancer: Balancer) -> Report:
    """What the window that is over has set, which the next one's first total shows."""
    model, balancer = copy.deepcopy((model, balancer))
    step(model, balancer, *batch())
    return balancer.report


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rows", CUTS)
def test_the_micro_batches_of_a_window_give_the_whole_batchs_norms_and_weights_for_the_next(
    rows: str, place: str
) -> None:
    model, (x, y) = net(), batch(12)
    micro = balancer_of(model, place, len(CUTS[rows]))
    whole = balancer_of(model, place, 1)
    for seed in (2, 5):
        x, y = batch(12, seed=seed)
        step(model, whole, x, y)
        window(model, micro, cut(x, y, CUTS[rows]))
        found, expected = settled(model, micro), whole.report
        assert_near(found.norms, expected.norms)
        assert_near(found.norms, true_norms(model, x, y, model.trunk[2].weight if "weight" in place else None))
        assert_near(found.losses, expected.losses)
        assert_near(found.ratios, expected.ratios)
        assert_near(found.weights, expected.weights)
        assert found.step_factor == pytest.approx(expected.step_factor, rel=1e-12)
        assert found.trunk_factor == pytest.approx(expected.trunk_factor, rel=1e-12, nan_ok=True)
        if "gram" in place:
            scale = torch.outer(expected.gram.norm, expected.gram.norm)
            assert bool(((found.gram.gg - expected.gram.gg).abs() <= 1e-12 * scale).all())
        assert found.updates == expected.updates


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_constant_within_a_window_and_come_from_the_one_before(place: str) -> None:
    model = net()
    balancer = balancer_of(model, place, 3)
    parts = [cut(*batch(12, seed=seed), [4, 4, 4]) for seed in range(3)]
    weights = [
        [*window(model, balancer, each), balancer.report.weights, settled(model, balancer).weights] for each in parts
    ]
    for first, second, third, reported, after in weights:
        assert first == second == third == reported != after
    assert [w[0] for w in weights[1:]] == [w[4] for w in weights[:2]]
    alone = balancer_of(model, place, 1)
    step(model, alone, *parts[0][0])
    assert_near(weights[0][0], alone.report.weights)  # the first window's are from its first micro-batch


def test_the_first_micro_batch_leaves_nothing_behind_but_the_first_windows_weights() -> None:
    model = net()
    micro, whole = (balancer_of(model, "z", n, smoothing=0.9, initial_batches=3) for n in (2, 1))
    before = None
    for seed in range(4):
        x, y = batch(12, seed=seed)
        step(model, whole, x, y)
        window(model, micro, cut(x, y, [4, 8]))
        assert_near(settled(model, micro).ratios, whole.report.ratios)
        assert_near(settled(model, micro).weights, whole.report.weights)
        assert_near(micro.static_weights(), dict.fromkeys("abc", 1.0) if before is None else before)
        before = whole.static_weights()


def test_the_gradient_of_a_window_is_the_whole_batchs_with_one_set_of_weights() -> None:
    model, (x, y) = net(), batch(12)
    balancer = balancer_of(model, "z", 2)
    window(model, balancer, cut(x, y, [5, 7]))
    weights = settled(model, balancer).weights
    x, y = batch(12, seed=3)
    expected = weighted(weights, true_gradients(model, x, y))
    model.zero_grad()
    for part, target in cut(x, y, [5, 7]):
        losses = model.losses(balancer.split(model.trunk(part)), target)
        (balancer.total(losses, count=dict.fromkeys("abc", len(part))) * len(part) / 12).backward()
    assert_same_gradient(model, expected)
    assert balancer.report.weights == weights


def test_a_short_window_is_ended_by_hand_and_an_open_one_only_so() -> None:
    model = net()
    whole, short, open_ = (balancer_of(model, "z", n) for n in (1, 4, None))
    for seed, rows in ((1, [3, 9]), (2, [12]), (3, [4, 4, 2, 2])):
        x, y = batch(12, seed=seed)
        step(model, whole, x, y)
        for balancer in (short, open_):
            weights = window(model, balancer, cut(x, y, rows))
            assert all(w == weights[0] for w in weights)
            balancer.end_window()
            balancer.end_window()  # of nothing
            found = settled(model, balancer)
            assert_near(found.norms, whole.report.norms)
            assert_near(found.weights, whole.report.weights)
            assert found.updates == whole.report.updates


def test_an_open_window_of_many_micro_batches_never_ends_by_itself() -> None:
    model = net()
    balancer = balancer_of(model, "z", None)
    parts = cut(*batch(12), [1] * 12)
    weights = window(model, balancer, parts)
    assert all(w == weights[0] for w in weights)
    assert balancer.report.updates == 0


def test_update_every_counts_windows() -> None:
    model = net()
    balancer = balancer_of(model, "z", 2, update_every=3)
    extra, weights = [], []
    for seed in range(9):
        with counted() as calls:
            parts = cut(*batch(8, seed=seed), [4, 4])
            weights.append(window(model, balancer, parts)[0])
        extra.append(sum(n == 3 for n in calls))
    assert extra == [2, 0, 0, 2, 0, 0, 2, 0, 0]
    assert weights[1] == weights[2] == weights[3] != weights[4] == weights[5] == weights[6] != weights[7]
    assert balancer.report.updates == 3


def test_a_task_may_be_absent_from_some_micro_batches_of_a_window() -> None:
    model, (x, y) = net(), batch(12)
    for place in PLACES:
        balancer = balancer_of(model, place, 3)
        parts = cut(x, y, [4, 5, 3])
        del parts[1][1]["b"], parts[0][1]["c"], parts[2][1]["c"]
        window(model, balancer, parts)
        at = model.trunk[2].weight if "weight" in place else None
        rows = {"a": torch.arange(12), "b": torch.tensor([0, 1, 2, 3, 9, 10, 11]), "c": torch.arange(4, 9)}
        expected = {t: true_norms(model, x[rows[t]], {t: y[t][rows[t]]}, at)[t] for t in UNITS}
        assert_near(settled(model, balancer).norms, expected)


def test_micro_batches_count_alike_where_no_counts_are_given() -> None:
    model = net()
    balancer = Balancer(UnitNorm(), "abc", accumulate=2)
    losses = []
    for seed in range(2):
        x, y = batch(4 + seed, seed=seed)
        losses.append({t: loss.item() for t, loss in model.plain(x, y).items()})
        balancer.total(model.losses(balancer.split(model.trunk(x)), y))
    assert_near(settled(model, balancer).losses, {t: (losses[0][t] + losses[1][t]) / 2 for t in "abc"})


def test_masks_count_their_labels_once_each_where_counts_are_given() -> None:
    model, (x, y) = net(), batch(12)
    keep = torch.tensor([1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0]).bool()
    balancer = balancer_of(model, "z", 3)
    for (part, target), mask in zip(cut(x, y, [4, 4, 4]), keep.split(4), strict=True):
        rows = model.losses(balancer.split(model.trunk(part)), target, "none")
        count = {"a": mask.sum(), "b": 4, "c": 4}
        balancer.total({"a": rows["a"], "b": rows["b"].mean(), "c": rows["c"].mean()}, {"a": mask}, count)
    expected = true_norms(model, x, {"b": y["b"], "c": y["c"]})
    expected |= true_norms(model, x[keep], {"a": y["a"][keep]})
    assert_near(settled(model, balancer).norms, expected)


def test_a_window_may_end_between_split_and_total() -> None:
    model, (x, y) = net(), batch()
    balancer = balancer_of(model, "z", None, update_every=2)
    for _ in range(6):
        expected = true_gradients(model, x, y)
        model.zero_grad()
        losses = model.losses(balancer.split(model.trunk(x)), y)
        balancer.end_window()
        balancer.total(losses).backward()
        assert_same_gradient(model, weighted(balancer.report.weights, expected))
