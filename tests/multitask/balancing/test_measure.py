"""Squared norms and inner products, at the features and at a weight, are those of the explicit gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from truestep.multitask.balancing._heads import Gradients
from truestep.multitask.balancing._measure import (
    Vectors,
    gram_of,
    linear_squares,
    spread,
    squares_of,
    weight_vectors,
    weight_vectors_below,
)
from truestep.multitask.balancing._split import Split

TASKS = ("a", "b", "c")
CPU = torch.device("cpu")
POWERS = st.lists(st.integers(-10, 10), min_size=3, max_size=3)


def found_at(features: list[Tensor], powers: list[int]) -> Gradients:
    """A gradient of each task at each of the features, but b's at the first."""
    out: Gradients = {t: [10.0**p * torch.randn_like(x) for x in features] for t, p in zip(TASKS, powers, strict=True)}
    out["b"][0] = None
    return out


def flat(found: Gradients, features: list[Tensor]) -> Tensor:
    """[tasks, elements]."""
    rows = [[(0 * x if g is None else g).flatten() for g, x in zip(gs, features, strict=True)] for gs in found.values()]
    return torch.stack([torch.cat(row) for row in rows]).double()


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


@settings(max_examples=25)
@given(POWERS)
def test_squares_and_inner_products_are_of_all_parts_of_the_features_as_one_vector(powers: list[int]) -> None:
    features = [torch.ones(4, 3, dtype=torch.float64), torch.ones(5, dtype=torch.float64)]
    found = found_at(features, powers)
    rows = flat(found, features)
    squares = squares_of(found)
    assert [*squares] == [*TASKS]
    close(torch.stack([*squares.values()]), rows.square().sum(1))
    sizes = torch.outer(rows.norm(dim=1), rows.norm(dim=1))
    gram = gram_of(found, features)
    assert bool(((gram - rows @ rows.T).abs() <= 1e-12 * sizes).all())


def test_squares_that_their_own_number_format_does_not_hold_are_float64() -> None:
    squares = squares_of({"a": [torch.full((4,), 3e30)], "b": [torch.full((1,), 300.0, dtype=torch.float16)]})
    assert squares["a"].item() == pytest.approx(4 * 9e60, rel=1e-6)
    assert squares["b"].item() == 9e4


def test_a_task_without_any_gradient_has_no_square_and_inner_products_of_zero() -> None:
    features, found = [torch.ones(2)], {"a": [torch.tensor([3.0, 4.0])], "b": [None]}
    assert {t: s.item() for t, s in squares_of(found).items()} == {"a": 25.0}
    assert gram_of(found, features).tolist() == [[25.0, 0.0], [0.0, 0.0]]
    assert squares_of({"b": [None]}) == squares_of({}) == {}


class Shared:
    """A trunk whose last layer is shared, and gradients of three tasks at its two outputs."""

    def __init__(self, rows: int = 4, powers: list[int] | None = None) -> None:
        torch.manual_seed(1)
        self.layer = nn.Linear(9, 5, dtype=torch.float64)
        hidden = self.layer(torch.randn(rows, 9, dtype=torch.float64))
        self.split = Split([hidden.tanh(), hidden.sin()], TASKS, apart=True)
        self.found = found_at(self.split.features, powers or [0, 0, 0])

    def explicit(self, weights: list[Tensor]) -> Tensor:
        rows = []
        for grads in self.found.values():
            seeds = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, self.split.features, strict=True)]
            gs = torch.autograd.grad(self.split.features, weights, seeds, retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in gs]))
        return torch.stack(rows)


@settings(max_examples=10)
@given(POWERS)
def test_squares_at_a_linear_weight_and_vectors_there_are_autograds(powers: list[int]) -> None:
    shared = Shared(powers=powers)
    weight = shared.layer.weight
    rows = shared.explicit([weight])
    squares = linear_squares(shared.found, shared.split, [weight])
    assert [*squares] == [*TASKS]
    close(torch.stack([*squares.values()]), rows.square().sum(1))
    vectors = dict(weight_vectors(shared.found, shared.split, [weight]))
    assert torch.stack([*vectors.values()]).equal(rows)


def test_vectors_at_several_weights_stand_one_after_the_other_and_have_no_short_way() -> None:
    shared = Shared()
    weights = [shared.layer.bias, shared.layer.weight]
    vectors = dict(weight_vectors(shared.found, shared.split, weights))
    assert torch.stack([*vectors.values()]).equal(shared.explicit(weights))
    assert linear_squares(shared.found, shared.split, weights) is None
    assert linear_squares(shared.found, shared.split, weights[:1]) is None  # a bias
    assert linear_squares(Shared(12).found, Shared(12).split, weights[1:]) is None


@pytest.mark.parametrize("scale", [None, {"a": torch.tensor(4.0), "b": torch.tensor(0.25)}])
def test_below_the_losses_each_trained_one_goes_down_on_its_own_times_its_scale(
    scale: dict[str, Tensor] | None,
) -> None:
    layer = nn.Linear(3, 2, dtype=torch.float64)
    z = layer(torch.randn(4, 3, dtype=torch.float64))
    losses = {"b": z.square().mean(), "c": torch.tensor(1.0), "a": z.sum()}
    found = dict(weight_vectors_below(losses, scale, [layer.weight]))
    assert [*found] == ["b", "a"]
    for task, vector in found.items():
        (g,) = torch.autograd.grad(losses[task], [layer.weight], retain_graph=True)
        close(vector, g.flatten() * (1.0 if scale is None else scale[task].item()), 1e-14)


@settings(max_examples=15)
@given(POWERS)
def test_vectors_of_a_window_add_up_before_their_products_are_taken(powers: list[int]) -> None:
    kept, weight = Vectors(TASKS), torch.ones(2, 3, dtype=torch.float64)
    parts = torch.randn(4, 3, 6, dtype=torch.float64) * 10.0 ** torch.tensor(powers, dtype=torch.float64)[:, None]
    factors = torch.rand(4, dtype=torch.float64)
    for part, factor in zip(parts, factors, strict=True):
        for task in ("c", "a", "b"):
            kept.add(task, part[TASKS.index(task)], factor)
    rows = (factors[:, None, None] * parts).sum(0)
    sizes = torch.outer(rows.norm(dim=1), rows.norm(dim=1))
    found = kept.gram([weight], None, keep=False)
    assert bool(((found - rows @ rows.T).abs() <= 1e-12 * sizes).all())


def test_vectors_stay_for_the_rest_of_a_window_only_if_they_are_kept() -> None:
    kept, weight, one = Vectors(TASKS), torch.ones(2), torch.tensor(1.0, dtype=torch.float64)
    kept.add("b", torch.tensor([3.0, 4.0]), one)
    for keep, expected in ((True, 25.0), (False, 25.0), (False, 0.0)):
        gram = kept.gram([weight], None, keep=keep)
        assert gram.tolist() == [[0.0, 0.0, 0.0], [0.0, expected, 0.0], [0.0, 0.0, 0.0]]
    assert gram.dtype == torch.float64


def test_a_rank_without_any_task_has_vectors_of_zero_in_the_weights_shape() -> None:
    kept = Vectors(TASKS)
    weights = [torch.ones(2, 3, dtype=torch.float16), torch.ones(4, dtype=torch.float16)]
    assert not kept.gram(weights, None, keep=False).any()
    assert kept.sum.shape == (3, 10)
    assert kept.sum.dtype == torch.float32


def test_vectors_of_other_weights_begin_anew() -> None:
    kept, one = Vectors(TASKS), torch.tensor(1.0, dtype=torch.float64)
    kept.add("a", torch.ones(2), one)
    kept.add("b", torch.ones(3), one)
    assert kept.sum.tolist() == [[0.0] * 3, [1.0] * 3, [0.0] * 3]


@pytest.mark.parametrize(
    "dtypes", [(torch.float32,) * 3, (torch.float64,) * 3, (torch.float32, torch.int64, torch.float16)]
)
def test_what_was_found_is_spread_in_the_tasks_order_in_float64(dtypes: tuple[torch.dtype, ...]) -> None:
    found = {t: torch.tensor(x, dtype=d) for t, x, d in zip("cab", (3, 1, 2), dtypes, strict=True)}
    assert spread(found, TASKS, CPU).tolist() == [1.0, 2.0, 3.0]
    del found["a"]
    made = spread(found, TASKS, CPU)
    assert made.tolist() == [0.0, 2.0, 3.0]
    assert made.dtype == torch.float64
    assert spread({}, TASKS, CPU).tolist() == [0.0] * 3
