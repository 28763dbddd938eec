"""The learning rate of the direction under each rule, and how units make groups and layers."""

from __future__ import annotations

from functools import partial
from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import assert_same_gram
from tests.invariance.random_walk import Lion
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from truestep.core import Gram, gram
from truestep.invariance import angular_update
from truestep.invariance._effective import by_group, direction_lr, per_layer, relative_lr
from truestep.invariance._rule import Rule, rules


def at_norm(norm: float) -> Gram:
    w = torch.tensor([0.6, 0.8], dtype=torch.float64) * norm
    return gram(w, w, w)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule("sgd", lr=0.5), 0.5 / 25),
        (Rule("sgd", lr=0.5, momentum=0.9), 5.0 / 25),
        (Rule("sgd", lr=0.5, momentum=0.9, nesterov=True), 5.0 / 25),
        (Rule("sgd", lr=0.5, momentum=0.9, dampening=0.9), 0.5 / 25),
        (Rule("adam", lr=0.5, momentum=0.9, decoupled=True), 0.1),
        (Rule("adam", lr=0.5, momentum=0.9), 0.1),
        (Rule("lion", lr=0.5, momentum=0.9, beta2=0.99, decoupled=True), 0.1),
    ],
    ids=lambda value: value.family if isinstance(value, Rule) else "",
)
def test_the_hand_worked_rates(rule: Rule, expected: float) -> None:
    assert float(direction_lr(at_norm(5.0), rule)) == pytest.approx(expected, rel=1e-12)


def turned(build: partial[Optimizer], norm: float, steps: int) -> tuple[float, float]:
    """How far a small constant tangential gradient turns a weight in the long run, a step; and the rate."""
    w = torch.tensor([norm, 0.0], dtype=torch.float64)
    optimizer = build([w])
    for _ in range(steps):
        before = w.clone()
        w.grad = torch.tensor([-w[1], w[0]]) / (w @ w) * 1e-7  # 1e-7 at the unit sphere, along the circle
        optimizer.step()
    record = gram(before, before, w - before)
    return float(angular_update(record)), float(direction_lr(record, rules(optimizer)[0]))


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True}])
@pytest.mark.parametrize("norm", [0.5, 4.0])
def test_under_sgd_the_direction_turns_by_the_rate_times_the_gradient_at_the_sphere(
    settings: dict[str, float], norm: float
) -> None:
    angle, rate = turned(partial(SGD, lr=0.1, **settings), norm, 150)
    assert angle == pytest.approx(rate * 1e-7, rel=1e-6)


@pytest.mark.parametrize(
    "build", [partial(Adam, lr=1e-6, eps=1e-20), partial(Lion, lr=1e-6, betas=(0.9, 0.99), weight_decay=0.0)]
)
@pytest.mark.parametrize("norm", [0.5, 4.0])
def test_under_adam_and_lion_the_direction_turns_by_the_rate_for_each_element_that_moves(
    build: partial[Optimizer], norm: float
) -> None:
    angle, rate = turned(build, norm, 150)
    assert angle == pytest.approx(rate, rel=1e-3)


@given(c=st.integers(-8, 8).map(lambda power: 10.0**power))
def test_the_rate_does_not_see_the_norm_if_lr_follows_it(c: float) -> None:
    for family, power in (("sgd", 2), ("adam", 1)):
        one = direction_lr(at_norm(1.0), Rule(family, lr=0.1, momentum=0.5))
        other = direction_lr(at_norm(c), Rule(family, lr=0.1 * c**power, momentum=0.5))
        torch.testing.assert_close(other, one, rtol=1e-12, atol=0)


def test_each_unit_has_its_own() -> None:
    w = torch.eye(3, dtype=torch.float64) * torch.tensor([1.0, 2.0, 4.0])
    record = gram(w, w, w, unit_dim=0)
    assert direction_lr(record, Rule("sgd", lr=1.0)).tolist() == [1.0, 0.25, 0.0625]
    assert direction_lr(record, Rule("adam", lr=1.0, momentum=0.9)).tolist() == [1.0, 0.5, 0.25]
    each = Rule("sgd", lr=torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64))
    assert direction_lr(record, each).tolist() == [1.0, 1.0, 1.0]
    assert relative_lr(record, 1.0).tolist() == [1.0, 0.5, 0.25]


def test_a_group_of_rows_is_the_gram_of_those_rows() -> None:
    w, g, d = torch.randn(3, 6, 5, dtype=torch.float64)
    rows = gram(w, g, d, unit_dim=0)
    pairs: list[Tensor] = [gram(*(x[2 * i : 2 * i + 2] for x in (w, g, d))).columns() for i in range(3)]
    assert_same_gram(by_group(rows, 3), Gram.from_columns(torch.stack(pairs)))
    assert_same_gram(by_group(rows, 6), rows)
    assert_same_gram(by_group(rows, 1), Gram.from_columns(gram(w, g, d).columns()[None]))


@pytest.mark.parametrize("groups", [0, 4, 7])
def test_groups_that_do_not_divide_the_units_are_refused(groups: int) -> None:
    w = torch.ones(6, 2)
    with pytest.raises(ValueError, match=f"`groups` must divide the number of units, 6, found {groups}"):
        by_group(gram(w, w, w, unit_dim=0), groups)


def test_a_layer_has_the_root_mean_square_of_its_units() -> None:
    values = torch.tensor([1.0, 7.0, torch.nan, 3.0, torch.inf], dtype=torch.float64)
    found = per_layer(["a.weight[0]", "a.weight[1]", "a.weight[2]", "b.weight", "a.weight[3]"], values)
    assert found == {"a.weight": sqrt(25), "b.weight": 3.0}
