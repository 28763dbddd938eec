"""The whole model's gradient carries the reported weights, whatever the rule, the factor and the place of measuring."""

from __future__ import annotations

import pytest
import torch
from tests.multitask.nets import (
    RULES,
    UNITS,
    assert_near,
    assert_same_gradient,
    assert_same_state,
    batch,
    counted,
    descend,
    net,
    step,
    true_gradients,
    true_norms,
    weighted,
)
from torch import Tensor

from truestep.multitask import Balancer, Constant
from truestep.multitask._gradnorm import GradNorm
from truestep.multitask._unit_norm import UnitNorm

PLACES = [(place, norm) for place in ("z", "weight") for norm in ("budget", "sum", "none")]
PLACES += [("below", "sum"), ("z, gram", "budget"), ("weight, gram", "budget")]


@pytest.mark.parametrize(("place", "normalize"), PLACES)
@pytest.mark.parametrize("rule", RULES)
def test_trunk_and_heads_and_value_carry_the_weights_of_this_step(rule: str, place: str, normalize: str) -> None:
    model = net()
    layer = None if place.startswith("z") else model.trunk[2]
    balancer = Balancer(RULES[rule](), "abc", normalize=normalize, layer=layer, gram="gram" in place)
    for seed in range(2):
        x, y = batch(seed=seed)
        expected, losses = true_gradients(model, x, y), model.plain(x, y)
        norms = true_norms(model, x, y, None if layer is None else layer.weight)
        if place == "below":
            model.zero_grad()
            total = balancer.total(model.plain(x, y))
            total.backward()
        else:
            total = step(model, balancer, x, y)
        weights = balancer.report.weights
        assert_same_gradient(model, weighted(weights, expected))
        plain = {task: loss.item() for task, loss in losses.items()}
        assert abs(total.item() - sum(weights[t] * plain[t] for t in plain)) <= 1e-12 * abs(total.item())
        assert_near(balancer.report.losses, plain)
        if balancer.weigher.gauge.reads != "losses":
            assert_near(balancer.report.norms, norms)
        descend(model)
    assert balancer.report.updates == 2


@pytest.mark.parametrize("rule", RULES)
def test_budget_keeps_the_factor_of_the_trunks_step_at_one_and_sum_keeps_the_weights_sum(rule: str) -> None:
    for normalize in ("budget", "sum"):
        model = net()
        balancer = Balancer(RULES[rule](), "abc", normalize=normalize)
        for seed in range(4):
            x, y = batch(seed=seed)
            norms = true_norms(model, x, y)
            step(model, balancer, x, y)
            weights = balancer.report.weights
            if normalize == "sum":
                assert abs(sum(weights.values()) - 3) <= 1e-12
                continue
            assert abs(sum(weights[t] * norms[t] for t in norms) / sum(norms.values()) - 1) <= 1e-12
            assert abs(balancer.report.step_factor - 1) <= 1e-12


@pytest.mark.parametrize("unit", [1e-10, 1e-3, 1.0, 1e10])
def test_a_losss_unit_changes_nothing_of_what_a_scale_free_rule_makes_of_it(unit: float) -> None:
    totals = []
    for factor in (1.0, unit):
        model = net()
        balancer = Balancer(GradNorm(1.0), "abc", normalize="sum")
        for seed in range(3):
            x, y = batch(seed=seed)
            losses = model.losses(balancer.split(model.trunk(x)), y)
            model.zero_grad()
            balancer.total({task: factor * loss for task, loss in losses.items()}).backward()
        totals.append(balancer.report.weights)
    assert_near(totals[1], totals[0], 1e-11)


def test_the_slow_tasks_weight_rises_under_gradnorm() -> None:
    model, (x, y) = net(), batch()
    balancer = Balancer(GradNorm(1.0, smoothing=0), "abc", normalize="sum")
    step(model, balancer, x, y)
    first = balancer.report
    with torch.no_grad():  # "a" and "b" solve their task at once; their gradients shrink too, "c" stays behind
        for task in "ab":
            y[task].copy_(0.9 * model.heads[task](model.trunk(x)) + 0.1 * y[task])
    step(model, balancer, x, y)
    last = balancer.report
    budget = [{t: r.weights[t] * r.norms[t] for t in UNITS} for r in (first, last)]
    share = [b["c"] / sum(b.values()) for b in budget]
    assert first.ratios == dict.fromkeys("abc", 1.0)
    assert_near(last.ratios, {"a": 0.01, "b": 0.01, "c": 1.0})
    assert abs(share[0] - 1 / 3) < 1e-12
    assert abs(share[1] - 1 / 1.02) < 1e-12  # ratios 0.01, 0.01, 1


def test_the_trunk_factor_is_that_of_the_trunks_true_gradient_at_the_place() -> None:
    model, (x, y) = net(), batch()
    weight = model.trunk[2].weight
    balancer = Balancer(UnitNorm(), "abc", layer=weight, gram=True)
    found = {t: grads["trunk.2.weight"] for t, grads in true_gradients(model, x, y).items()}
    step(model, balancer, x, y)
    report = balancer.report
    balanced, plain = sum(report.weights[t] * g for t, g in found.items()), sum(found.values())
    assert abs(report.trunk_factor - (balanced.norm() / plain.norm()).item()) <= 1e-12
    gram = torch.tensor([[(g * h).sum() for h in found.values()] for g in found.values()])
    torch.testing.assert_close(report.gram.gg, gram.double(), rtol=1e-11, atol=0)


def test_an_update_passes_the_heads_once_and_other_steps_take_no_extra_pass() -> None:
    model = net()
    balancer = Balancer(GradNorm(1.0), "abc", update_every=3)
    calls, weights = [], []
    for seed in range(7):
        with counted() as found:
            step(model, balancer, *batch(seed=seed))
        calls.append(found)
        weights.append(balancer.report.weights)
        descend(model)
    assert calls == [[3, 1, 1, 1], [], [], [3], [], [], [3]] or calls == [[1, 1, 1, 3], [], [], [3], [], [], [3]]
    assert weights[0] == weights[1] == weights[2] != weights[3] == weights[4] == weights[5] != weights[6]
    assert balancer.report.updates == 3


def test_a_rule_that_reads_losses_passes_nothing_unless_the_budget_is_kept() -> None:
    for normalize, expected in (("sum", 0), ("none", 0), ("budget", 4)):
        model = net()
        with counted() as calls:
            step(model, Balancer(UnitNorm(), "abc", normalize=normalize), *batch())
        assert len(calls) == expected


def test_nothing_goes_through_the_trunk_twice() -> None:
    model, passes = net(), []

    def seen(_: Tensor) -> None:
        passes.append(1)

    balancer = Balancer(GradNorm(1.0), "abc", gram=True)
    for seed in range(2):
        x, y = batch(seed=seed)
        z = model.trunk(x)
        z.register_hook(seen)
        balancer.total(model.losses(balancer.split(z), y)).backward()
    assert len(passes) == 2


def test_under_no_grad_nothing_is_measured_or_changed_and_the_weights_are_those_so_far() -> None:
    model = net()
    for accumulate in (1, 2):
        balancer = Balancer(GradNorm(1.0), "abc", initial_batches=3, accumulate=accumulate)
        step(model, balancer, *batch())
        before, report = balancer.state_dict(), balancer.report
        x, y = batch(seed=5)
        y["b"][0] = torch.nan  # not looked at either
        for grad in (torch.no_grad, torch.inference_mode):
            with grad(), counted() as calls:
                total = balancer.total(model.losses(balancer.split(model.trunk(x)), y))
            assert not calls
            assert not total.requires_grad
            with grad():
                total = balancer.total({t: loss for t, loss in model.plain(x, y).items() if t != "b"})
            plain = model.plain(x, y)
            expected = sum(report.weights[t] * plain[t].item() for t in "ac")
            assert abs(total.item() - expected) <= 1e-12 * abs(expected)
        assert_same_state(balancer.state_dict(), before)
        step(model, balancer, *batch(seed=6))  # and training goes on


def test_total_is_a_scalar_of_the_plain_sum_for_constant_weights() -> None:
    model, (x, y) = net(), batch()
    balancer = Balancer(Constant({"a": 1.0, "b": 2.0, "c": 0.5}), "abc", normalize="none")
    total = balancer.total(model.plain(x, y))
    plain = model.plain(x, y)
    torch.testing.assert_close(total, plain["a"] + 2 * plain["b"] + 0.5 * plain["c"], rtol=1e-14, atol=0)


def test_static_weights_are_the_mean_shares_and_constant_takes_them() -> None:
    model = net()
    balancer = Balancer(GradNorm(1.0), "abc", update_every=2)
    shares = []
    for seed in range(6):
        step(model, balancer, *batch(seed=seed))
        weights = balancer.report.weights
        if seed % 2 == 0:
            shares.append({t: w / sum(weights.values()) for t, w in weights.items()})
        descend(model)
    static = balancer.static_weights()
    assert_near(static, {t: sum(share[t] for share in shares) for t in "abc"})  # 3 tasks, 3 updates
    again = Balancer(Constant(static), "abc", normalize="sum")
    step(model, again, *batch())
    assert_near(again.report.weights, static)
