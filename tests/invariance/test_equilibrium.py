"""Equilibria as they are asked for: first orders of the table, times, laws of scale, and what is refused."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.invariance.random_walk import SGDW, Lion
from torch.optim import SGD, Adam, AdamW

from truestep.invariance._equilibrium import GroupEquilibrium, equilibrium
from truestep.invariance._rule import Rule

SCALES = st.integers(-6, 6).map(lambda power: 10.0**power)
LR, WD, MU, D, G = 1e-3, 1e-3, 0.9, 100, 7.0
X = LR * WD
RULES = {
    "SGD": Rule("sgd", lr=LR, weight_decay=WD),
    "momentum": Rule("sgd", lr=LR, weight_decay=WD, momentum=MU),
    "Nesterov": Rule("sgd", lr=LR, weight_decay=WD, momentum=MU, nesterov=True),
    "dampening": Rule("sgd", lr=LR, weight_decay=WD, momentum=MU, dampening=0.75),
    "SGDW": Rule("sgd", lr=LR, weight_decay=WD, momentum=MU, decoupled=True),
    "AdamW": Rule("adam", lr=LR, weight_decay=WD, momentum=MU, decoupled=True),
    "Adam": Rule("adam", lr=LR, weight_decay=WD, momentum=MU),
    "Lion": Rule("lion", lr=LR, weight_decay=WD, momentum=MU, beta2=0.99, decoupled=True),
}
ADAM_X = LR * WD * sqrt(D / G) * (LR * sqrt(D * G) / (2 * WD)) ** (1 / 3)  # lr wd' with wd' = wd |w| sqrt(d/G)
# Angle, norm, direction memory and norm time to first order in lr times weight decay, as the table has them.
FIRST_ORDER = {
    "SGD": (sqrt(2 * X), (LR * G / (2 * WD)) ** 0.25, 1 / X, 1 / (4 * X)),
    "momentum": (sqrt(2 * X / (1 + MU)), (LR * G / (2 * WD * (1 - MU))) ** 0.25, (1 - MU) / X, (1 - MU) / (4 * X)),
    "Nesterov": (
        sqrt(2 * X / (1 + MU) * (1 + 2 * MU - 2 * MU**3)),
        (LR * G / (2 * WD * (1 - MU))) ** 0.25,
        (1 - MU) / X,
        (1 - MU) / (4 * X),
    ),
    "dampening": (
        sqrt(2 * X / 4 / (1 + MU)),
        (LR / 4 * G / (2 * WD * (1 - MU))) ** 0.25,
        4 * (1 - MU) / X,
        (1 - MU) / X,
    ),
    "SGDW": (sqrt(2 * X * (1 - MU) / (1 + MU)), (LR * G / (2 * WD * (1 - MU) ** 2)) ** 0.25, 1 / X, 1 / (4 * X)),
    "AdamW": (sqrt(2 * X * (1 - MU) / (1 + MU)), sqrt(LR * D / (2 * WD)), 1 / X, 1 / (2 * X)),
    "Adam": (
        sqrt(2 * ADAM_X * (1 - MU) / (1 + MU)),
        (LR * sqrt(D * G) / (2 * WD)) ** (1 / 3),
        1 / ADAM_X,
        1 / (3 * ADAM_X),
    ),
}


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_each_rule_has_the_tables_angle_norm_and_times(name: str) -> None:
    (group,) = equilibrium(RULES[name]).groups
    group = group.measured(G, D)
    found = [float(x) for x in (group.angle, group.norm, group.direction_time, group.norm_time)]
    assert found == pytest.approx(FIRST_ORDER[name], rel=3e-5)


@pytest.mark.parametrize(("name", "steps"), [("SGD", 1), ("momentum", 10), ("SGDW", 10), ("AdamW", 10), ("Lion", 100)])
def test_a_gradient_stays_in_the_step_for_the_buffers_time(name: str, steps: int) -> None:
    assert float(equilibrium(RULES[name]).groups[0].buffer_time) == pytest.approx(steps)


def test_lion_alone_is_marked_approximate() -> None:
    marked = {name for name, rule in RULES.items() if equilibrium(rule).groups[0].approximate}
    assert marked == {"Lion"}


@pytest.mark.parametrize("name", RULES)
@given(c=SCALES)
def test_angle_and_times_do_not_see_the_scale_of_the_weights_and_the_norm_follows_it(name: str, c: float) -> None:
    rule = RULES[name]
    scale = c**2 if rule.family == "sgd" else c  # (eta, lambda, w) -> (c² eta, lambda / c², c w); Adam's step is its lr
    decay = WD / c**2 if rule.family == "sgd" or not rule.decoupled else WD / c
    settings = {name: getattr(rule, name) for name in ("momentum", "beta2", "decoupled", "nesterov", "dampening")}
    other = Rule(rule.family, lr=LR * scale, weight_decay=decay, **settings)
    one, two = (GroupEquilibrium(each, G, D) for each in (rule, other))
    for field in ("angle", "norm_time", "direction_time", "buffer_time"):
        torch.testing.assert_close(getattr(two, field), getattr(one, field), rtol=1e-9, atol=0)
    torch.testing.assert_close(two.norm, one.norm * c, rtol=1e-9, atol=0)
    torch.testing.assert_close(two.norm_after(c * 3.0, 50), one.norm_after(3.0, 50) * c, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"Adam"}))
@given(size=SCALES)
def test_the_angle_does_not_see_the_gradient(name: str, size: float) -> None:
    plain = GroupEquilibrium(RULES[name])
    assert torch.equal(plain.measured(size, 3).angle, plain.angle)
    power = 0.25 if RULES[name].family == "sgd" else 0.0
    one, other = plain.measured(1.0, 3).norm, plain.measured(size, 3).norm
    torch.testing.assert_close(other, one * size**power, rtol=1e-9, atol=0)


def test_what_needs_a_measurement_is_nan_until_it_is_there() -> None:
    sgd, adamw, adam = (GroupEquilibrium(RULES[name]) for name in ("SGD", "AdamW", "Adam"))
    assert sgd.norm.isnan()
    assert not sgd.measured(gradient_size=1.0).norm.isnan()
    assert adamw.measured(gradient_size=1.0).norm.isnan()
    assert not adamw.measured(numel=3).norm.isnan()
    for half in (adam.measured(gradient_size=1.0), adam.measured(numel=3)):
        assert half.angle.isnan()
        assert half.norm_time.isnan()
    assert not adam.measured(1.0, 3).angle.isnan()


def test_a_start_at_equilibrium_stays_and_any_other_ends_there() -> None:
    for rule in RULES.values():
        group = GroupEquilibrium(rule, G, D)
        end = float(group.norm)
        assert float(group.norm_after(end, 1234)) == pytest.approx(end, rel=1e-9)
        for begin in (0.0, 0.3 * end, 5 * end):
            assert float(group.norm_after(begin, 0)) == pytest.approx(begin, rel=1e-6, abs=1e-6)
            assert float(group.norm_after(begin, 100 * float(group.norm_time))) == pytest.approx(end, rel=1e-9)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD([torch.zeros(2)], lr=0.1, momentum=0.9, weight_decay=0.01),
        SGDW([torch.zeros(2)], lr=0.1, momentum=0.9, weight_decay=0.01),
        Adam([torch.zeros(2)], weight_decay=0.01),
        AdamW([torch.zeros(2)]),
        Lion([torch.zeros(2)], lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_an_optimizer_has_one_equilibrium_a_group(optimizer: torch.optim.Optimizer) -> None:
    optimizer.add_param_group({"params": [torch.zeros(2)], "lr": 0.2})
    first, second = (group.measured(G, D) for group in equilibrium(optimizer).groups)
    assert float(second.angle) > float(first.angle) > 0


def test_a_group_without_decay_beside_one_with_it_grows() -> None:
    groups: list[dict[str, Any]] = [{"params": [torch.zeros(2)], "weight_decay": wd} for wd in (0.1, 0.0)]
    decays, grows = (group.measured(G, D) for group in equilibrium(AdamW(groups)).groups)
    assert (decays.grows, grows.grows) == (False, True)
    assert float(grows.angle) == 0.0
    assert grows.norm.isinf()
    assert grows.norm_time.isinf()
    assert grows.direction_time.isinf()


@pytest.mark.parametrize("name", RULES)
def test_without_any_decay_the_norm_grows_without_end(name: str) -> None:
    rule = RULES[name]
    without = Rule(rule.family, lr=LR, momentum=MU, beta2=0.99, decoupled=rule.decoupled)
    with pytest.raises(ValueError, match=r"found 0 in every group: without it the norm .* grows without end"):
        equilibrium(without)


@pytest.mark.parametrize("build", [SGD, SGDW, Adam, AdamW], ids=lambda build: build.__name__)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_group_that_is_idle_beside_one_that_moves_stays_where_it_is(build: Any, weight_decay: float) -> None:
    groups = [{"params": [torch.zeros(2)], "lr": lr, "weight_decay": wd} for lr, wd in ((0, weight_decay), (0.1, 0.1))]
    idle, moves = equilibrium(build(groups)).groups
    assert (idle.idle, moves.idle) == (True, False)
    assert not idle.grows
    for group in (idle, idle.measured(G, D)):
        assert float(group.angle) == float(group.rate) == 0.0
        assert group.norm.isnan()  # any norm stays
        assert group.norm_time.isinf()
        assert group.direction_time.isinf()
        assert float(group.norm_after(3.0, 1000)) == 3.0
    assert float(moves.measured(G, D).angle) > 0


def test_blocks_at_an_lr_of_zero_do_not_touch_the_others() -> None:
    lr = torch.tensor([0.0, 0.1], dtype=torch.float64)
    (both,) = equilibrium(Rule("sgd", lr=lr, weight_decay=0.1)).groups
    (one,) = equilibrium(Rule("sgd", lr=0.1, weight_decay=0.1)).groups
    assert (both.idle, both.grows) == (False, False)
    for field in ("angle", "norm_time", "direction_time"):
        assert float(getattr(both, field)[1]) == float(getattr(one, field))
    assert both.norm_after(3.0, 0).tolist()[0] == 3.0


def test_adam_without_decay_needs_no_measurement_to_have_no_angle() -> None:
    group = GroupEquilibrium(Rule("adam", lr=LR, momentum=MU))
    for each in (group, group.measured(G, D)):
        assert float(each.angle) == float(each.rate) == 0.0
        assert each.norm_time.isinf()


def test_an_lr_that_moves_nothing_and_a_decay_that_leaves_nothing_are_refused() -> None:
    for lr in (0.0, torch.tensor(0.0)):
        with pytest.raises(ValueError, match="`lr` must be above 0 in some group, found 0 in all: nothing moves"):
            equilibrium(SGD([torch.zeros(2)], lr=lr, weight_decay=0.1))
    for lr in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"`lr` must be 0 or more, found .* in group 0"):
            equilibrium(Rule("sgd", lr=lr, weight_decay=0.1))
    with pytest.raises(ValueError, match=r"lr times `weight_decay` must lie in \[0, 1\), found .* in group 0"):
        equilibrium(Rule("sgd", lr=10.0, weight_decay=0.1))


def test_decay_in_an_idle_group_alone_is_no_decay() -> None:
    groups = [{"params": [torch.zeros(2)], "lr": lr, "weight_decay": wd} for lr, wd in ((0.0, 0.1), (0.1, 0.0))]
    with pytest.raises(ValueError, match="must have weight decay, found 0 in every group"):
        equilibrium(SGD(groups))


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"known equilibrium \(SGD, SGDW, Adam, AdamW, Lion\), found RMSprop"):
        equilibrium(torch.optim.RMSprop([torch.zeros(2)], weight_decay=0.1))
