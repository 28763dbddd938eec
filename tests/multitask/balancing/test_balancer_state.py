"""Saving, copying, moving; and that measuring leaves the training as it found it."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from typing import Any

import pytest
import torch
from tests.multitask.nets import (
    RULES,
    Net,
    assert_same_gradient,
    assert_same_state,
    batch,
    descend,
    net,
    step,
    true_gradients,
    true_norms,
    weighted,
)
from torch import Tensor, nn

from truestep.multitask import Balancer
from truestep.multitask._gradnorm import GradNorm
from truestep.multitask._unit_norm import UnitNorm

SETTINGS: dict[str, dict[str, Any]] = {
    "z": {"initial_batches": 4},
    "gram": {"gram": True},
    "window": {"accumulate": 3, "initial_batches": 2},
    "window at a weight": {"accumulate": 3, "layer": True, "gram": True},
    "open window": {"accumulate": None, "update_every": 2},
}


def build(rule: str, settings: dict[str, Any]) -> tuple[Net, Balancer]:
    model = net()
    layer = model.trunk[2] if settings.get("layer") else None
    return model, Balancer(RULES[rule](), "abc", **(settings | {"layer": layer}))


def go(model: Net, balancer: Balancer, seeds: range) -> list[dict[str, float]]:
    weights = []
    for seed in seeds:
        balancer.kpi({"a": 0.1 + seed / 20, "b": 0.3})
        step(model, balancer, *batch(seed=seed))
        descend(model)
        if balancer.accumulate is None and seed % 2:
            balancer.end_window()
        weights.append(balancer.report.weights)
    return weights


def saved(state: Any) -> Any:
    """As a checkpoint comes back: without pickled classes."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


CASES = [(rule, "z") for rule in RULES] + [("GradNorm, direct", name) for name in SETTINGS if name != "z"]


@pytest.mark.parametrize(("rule", "settings"), CASES)
def test_a_resumed_run_goes_on_bit_for_bit_also_from_within_a_window(rule: str, settings: str) -> None:
    model, balancer = build(rule, SETTINGS[settings])
    go(model, balancer, range(5))  # 5 is inside a window of 3
    balancer.kpi({"c": 0.7})
    kept = saved({"model": model.state_dict(), "balancer": balancer.state_dict()})
    expected = go(model, balancer, range(5, 9))
    for _ in range(2):  # the state itself is not used up
        again, resumed = build(rule, SETTINGS[settings])
        again.load_state_dict(kept["model"])
        resumed.load_state_dict(kept["balancer"])
        assert go(again, resumed, range(5, 9)) == expected
        assert_same_state(resumed.state_dict(), balancer.state_dict())
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert len({str(w) for w in expected}) > 1 or rule == "Constant"


def test_the_state_of_other_tasks_is_refused() -> None:
    balancer = Balancer(UnitNorm(), "abc")
    for other in ("abd", "acb"):
        with pytest.raises(ValueError, match=r"the state is of a balancer of a, b, c; this one has a, "):
            Balancer(UnitNorm(), other).load_state_dict(balancer.state_dict())


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_copy_goes_on_alike_and_alone(how: str, settings: str) -> None:
    model, balancer = build("GradNorm, direct", SETTINGS[settings])
    model.balancer = balancer  # a part of the user's model
    go(model, balancer, range(4))
    x, y = batch(seed=9)
    losses = model.losses(balancer.split(model.trunk(x)), y)  # between split and total
    again = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert_same_state(again.balancer.state_dict(), balancer.state_dict())
    model.zero_grad()
    balancer.total(losses).backward()
    expected = go(model, balancer, range(5, 9))
    step(again, again.balancer, x, y)
    assert go(again, again.balancer, range(5, 9)) == expected
    assert_same_state(again.balancer.state_dict(), balancer.state_dict())


def test_a_copy_that_has_lost_its_models_layer_says_so() -> None:
    model, (x, y) = net(), batch()
    balancer = Balancer(GradNorm(1.0), "abc", layer=model.trunk[2])
    step(model, balancer, x, y)
    alone = copy.deepcopy(balancer)
    with pytest.raises(ValueError, match="`layer` takes no part in the losses"):
        step(model, alone, x, y)


@pytest.mark.parametrize("kind", ["half", "bfloat16", "to"])
def test_a_models_number_format_does_not_round_the_state(kind: str) -> None:
    model, balancer = build("GradNorm, gradient", {})
    model.balancer = balancer
    go(model, balancer, range(3))
    before = copy.deepcopy(balancer.state_dict())
    report = balancer.report
    model.to(torch.float32) if kind == "to" else getattr(model, kind)()
    assert model.trunk[0].weight.dtype != torch.float64
    assert_same_state(balancer.state_dict(), before)
    assert str(balancer.report) == str(report)
    assert all(x.dtype in (torch.float64, torch.int64) for x in balancer.buffers())


def test_there_is_nothing_for_an_optimizer() -> None:
    model = net()
    for rule in RULES:
        balancer = Balancer(RULES[rule](), "abc", layer=model.trunk[2])
        assert not [*balancer.parameters()]
        step(model, balancer, *batch())
        assert not [*balancer.parameters()]
        assert all(not x.requires_grad and x.grad_fn is None for x in balancer.buffers())


def nodes(loss: Tensor) -> int:
    """Nodes of the graph below a loss."""
    ahead = [loss.grad_fn]
    seen = set(ahead)
    for node in ahead:
        fresh = [n for n, _ in node.next_functions if n is not None and n not in seen]
        seen.update(fresh)
        ahead.extend(fresh)
    return len(seen)


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(x), Tensor) for x in gc.get_objects())


@pytest.mark.parametrize(
    ("settings", "steps"), [({"update_every": 5}, 1000), ({"layer": True, "accumulate": 2, "gram": True}, 40), ({}, 40)]
)
def test_graph_and_memory_are_those_of_the_first_step_after_a_thousand(
    settings: dict[str, Any], steps: int, unchecked: None
) -> None:
    model = net()
    layer = model.trunk[2] if settings.get("layer") else None
    balancer = Balancer(GradNorm(1.0), "ab", **(settings | {"layer": layer}))
    x, y = batch(rows=2, tasks="ab")
    sizes, alive = [], []
    for i in range(steps):
        total = balancer.total(model.losses(balancer.split(model.trunk(x)), y))
        sizes.append(nodes(total) if i % 10 == 0 else sizes[-1])
        if i in (9, steps - 1):
            del total
            alive.append(tensors())
    assert set(sizes) == {sizes[0]}
    assert alive[0] == alive[1]
    assert balancer.report.updates in (steps, steps // 2 - 1, steps // 5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_measuring_touches_no_gradient_no_random_number_no_buffer_and_no_mode(settings: str) -> None:
    model, balancer = build("Surgery", SETTINGS[settings])
    heads = {t: nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(6), model.heads[t]) for t in "abc"}
    model.heads = nn.ModuleDict(heads).double()
    model.trunk.append(nn.BatchNorm1d(6).double())
    x, y = batch()
    losses = model.losses(balancer.split(model.trunk(x)), y)
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0)
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    fired: list[str] = []
    hooks = [p.register_post_accumulate_grad_hook(lambda p: fired.append("grad")) for p in model.parameters()]
    random, grads = torch.get_rng_state(), [p.grad for p in model.parameters()]
    total = balancer.total(losses)
    assert torch.equal(random, torch.get_rng_state())
    for p, grad in zip(model.parameters(), grads, strict=True):
        assert p.grad is grad
        assert bool((grad == 3.0).all())
    assert not fired
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    total.backward()
    assert len(fired) == len(hooks)


def test_losses_and_gradients_given_to_total_are_left_as_they_are() -> None:
    model, (x, y) = net(), batch()
    balancer = Balancer(GradNorm(1.0), "abc")
    losses = model.losses(balancer.split(model.trunk(x)), y)
    given = {t: (loss, loss.item(), loss.grad_fn) for t, loss in losses.items()}
    balancer.total(losses)
    assert {t: (loss, loss.item(), loss.grad_fn) for t, loss in losses.items()} == given


def test_two_balancers_of_one_model_do_not_disturb_each_other() -> None:
    model, (x, y) = net(), batch()
    one, other = Balancer(GradNorm(1.0), "ab"), Balancer(UnitNorm(), "bc", layer=model.trunk[2])
    z = model.trunk(x)
    expected, norms = true_gradients(model, x, y), true_norms(model, x, y)
    first = one.total(model.losses(one.split(z), {t: y[t] for t in "ab"}))
    second = other.total(model.losses(other.split(z), {t: y[t] for t in "bc"}))
    (first + second).backward()
    weights = {t: one.report.weights.get(t, 0.0) + other.report.weights.get(t, 0.0) for t in "abc"}
    assert_same_gradient(model, weighted(weights, expected))
    assert one.report.norms["a"] == pytest.approx(norms["a"], rel=1e-12)
