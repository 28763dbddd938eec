"""What may be split, where norms may be taken, and what heads must not do with their views."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from tests.multitask.nets import (
    RULES,
    WIDE,
    Net,
    assert_near,
    assert_same_gradient,
    batch,
    net,
    step,
    steps,
    true_gradients,
    true_norms,
    weighted,
)
from torch import Tensor, nn

from truestep.multitask import Balancer
from truestep.multitask._gradnorm import GradNorm
from truestep.multitask._unit_norm import UnitNorm


class Pyramid(nn.Module):
    """Two levels of features; head "a" reads both, "b" the second only."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(5, 4), nn.Linear(4, 3)
        self.a, self.b = nn.Linear(7, 1), nn.Linear(3, 1)
        self.double()

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.low(x).tanh()
        return low, self.high(low)


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
@pytest.mark.parametrize("gram", [False, True])
def test_features_may_be_any_tree_of_tensors(kind: str, gram: bool) -> None:
    torch.manual_seed(3)
    model, x = Pyramid(), torch.randn(6, 5).double()
    low, high = model.features(x)
    trees: dict[str, Any] = {"list": [low, 7, high], "tuple": (low, "name", high), "dict": {0: low, 1: None, 2: high}}
    balancer = Balancer(GradNorm(1.0), "ab", gram=gram)
    views = balancer.split(trees[kind])
    assert type(views["a"]) is type(trees[kind])
    assert views["b"][1] == trees[kind][1]
    losses = {
        "a": model.a(torch.cat([views["a"][0], views["a"][2]], 1)).square().mean(),
        "b": 1e3 * model.b(views["b"][2]).square().mean(),
    }
    total = balancer.total(losses)
    total.backward()
    low, high = model.features(x)
    plain = {"a": model.a(torch.cat([low, high], 1)).square().mean(), "b": 1e3 * model.b(high).square().mean()}
    names = [name for name, _ in model.named_parameters()]
    grads, norms = {}, {}
    for task, loss in plain.items():
        found = torch.autograd.grad(loss, [*model.parameters()], retain_graph=True, materialize_grads=True)
        grads[task] = dict(zip(names, found, strict=True))
    # Of "a" at its own reading of the features: what the upper level sends to the lower is the trunk's business.
    parts = [x.detach().requires_grad_() for x in (low, high)]
    a = model.a(torch.cat(parts, 1)).square().mean()
    norms["a"] = sum(g.square().sum().item() for g in torch.autograd.grad(a, parts)) ** 0.5
    norms["b"] = torch.autograd.grad(plain["b"], high)[0].norm().item()
    assert_same_gradient(model, weighted(balancer.report.weights, grads))
    assert_near(balancer.report.norms, norms)


def layers(model: Net) -> dict[str, Any]:
    first, last = model.trunk[0], model.trunk[2]
    return {
        "module": (last, [last.weight]),
        "tensor": (last.weight, [last.weight]),
        "bias": (last.bias, [last.bias]),
        "several": ([last.weight, last.bias], [last.weight, last.bias]),
        "all of the trunk": (model.trunk, [*model.trunk.parameters()]),
        "deep": (first, [first.weight]),
        "iterator": ((p for p in last.parameters()), [last.weight, last.bias]),
    }


@pytest.mark.parametrize("which", layers(net()))
@pytest.mark.parametrize("rows", [4, 30])  # fewer rows than the layer has inputs, and more
@pytest.mark.parametrize("split", [True, False])
def test_norms_are_exact_at_any_shared_layer(which: str, rows: int, split: bool) -> None:
    model, (x, y) = net(), batch(rows)
    layer, weights = layers(model)[which]
    balancer = Balancer(GradNorm(1.0), "abc", layer=layer)
    expected = true_gradients(model, x, y)
    if split:
        step(model, balancer, x, y)
    else:
        model.zero_grad()
        balancer.total(model.plain(x, y)).backward()
    squares = [true_norms(model, x, y, weight) for weight in weights]
    assert_near(balancer.report.norms, {t: sum(s[t] ** 2 for s in squares) ** 0.5 for t in "abc"})
    assert_same_gradient(model, weighted(balancer.report.weights, expected))


class Tied(nn.Module):
    """One square layer used twice, the second time far above the first, or below a cube of rows."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.shared = nn.Linear(9, 9)
        self.between = nn.Sequential(*(nn.Tanh() for _ in range(depth)))
        self.heads = nn.ModuleDict({"a": nn.Linear(9, 1), "b": nn.Linear(9, 1)})
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.between(self.shared(x)))


def heads_losses(model: Any, views: Any) -> dict[str, Tensor]:
    return {"a": model.heads["a"](views["a"]).square().mean(), "b": 100 * model.heads["b"](views["b"]).square().mean()}


@pytest.mark.parametrize("depth", [1, 100])
@pytest.mark.parametrize("shape", [(4, 9), (2, 2, 9)])
def test_a_layer_used_twice_is_measured_with_both_uses(depth: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    model, x = Tied(depth), torch.randn(shape).double()
    balancer = Balancer(UnitNorm(), "ab", layer=model.shared)
    for _ in range(2):
        balancer.total(heads_losses(model, balancer.split(model(x))))
        plain = heads_losses(model, dict.fromkeys("ab", model(x)))
        grads = {t: torch.autograd.grad(loss, model.shared.weight)[0] for t, loss in plain.items() if t == "a"}
        plain = heads_losses(model, dict.fromkeys("ab", model(x)))
        grads["b"] = torch.autograd.grad(plain["b"], model.shared.weight)[0]
        assert_near(balancer.report.norms, {t: g.norm().item() for t, g in grads.items()})


@pytest.mark.parametrize("shape", [(4, 9), (2, 2, 9)])
def test_a_matrix_product_with_a_factor_is_measured_with_it(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    model, x = Tied(1), torch.randn(shape).double()
    weight, bias = model.shared.weight, model.shared.bias
    balancer = Balancer(UnitNorm(), "ab", layer=weight)
    z = torch.addmm(bias, x.reshape(-1, 9), weight.t(), alpha=3.0).reshape(shape)
    losses = heads_losses(model, balancer.split(z))
    balancer.total(losses)
    expected = {t: torch.autograd.grad(loss, weight, retain_graph=True)[0].norm().item() for t, loss in losses.items()}
    assert_near(balancer.report.norms, expected)


def test_a_head_that_reads_another_tasks_view_is_refused() -> None:
    model, (x, y) = net(), batch()
    balancer = Balancer(UnitNorm(), "abc")
    views = balancer.split(model.trunk(x))
    losses = model.losses(views | {"b": views["b"] + views["c"]}, y)
    with pytest.raises(ValueError, match=r"the loss of 'b' was computed from views\['c'\]"):
        balancer.total(losses)


@pytest.mark.parametrize("layer", [False, True])
def test_a_head_that_reads_the_features_themselves_is_refused(layer: bool) -> None:
    model, (x, y) = net(), batch()
    balancer = Balancer(UnitNorm(), "abc", layer=model.trunk[2] if layer else None)
    z = model.trunk(x)
    losses = model.losses(balancer.split(z) | {"b": z}, y)
    with pytest.raises(ValueError, match=r"the loss of 'b' was not computed from its view: .*views\['b'\]"):
        balancer.total(losses)


def test_a_head_that_overwrites_its_view_is_refused() -> None:
    model, (x, y) = net(), batch()
    model.heads["b"][0] = nn.ReLU(inplace=True)
    balancer = Balancer(UnitNorm(), "abc")
    losses = model.losses(balancer.split(model.trunk(x)), y)
    with pytest.raises(ValueError, match="a head overwrote its view of the features"):
        balancer.total(losses)


def test_an_operation_in_place_before_the_split_or_deeper_in_a_head_is_fine() -> None:
    model, (x, y) = net(), batch()
    model.trunk.append(nn.ReLU(inplace=True))
    model.heads["b"] = nn.Sequential(nn.Linear(WIDE, 4).double(), nn.ReLU(inplace=True), nn.Linear(4, 2).double())
    balancer = Balancer(UnitNorm(), "abc")
    expected = true_gradients(model, x, y)
    step(model, balancer, x, y)
    assert_same_gradient(model, weighted(balancer.report.weights, expected))


@pytest.mark.parametrize("normalize", ["budget", "sum"])
def test_a_rule_that_reads_gradients_says_what_to_do_without_them(normalize: str) -> None:
    model, (x, y) = net(), batch()
    rule = UnitNorm() if normalize == "budget" else GradNorm(1.0)
    balancer = Balancer(rule, "abc", normalize=normalize)
    named = "normalize='budget'" if normalize == "budget" else "GradNorm"
    with pytest.raises(ValueError, match=rf"{named} needs the tasks' gradients: call `views = balancer.split"):
        balancer.total(model.plain(x, y))


@pytest.mark.parametrize("rule", ["UnitNorm", "GradNorm, direct"])
def test_over_a_frozen_trunk_the_heads_go_on_with_the_weights_so_far_or_those_of_the_losses(rule: str) -> None:
    model, (x, y) = net(), batch()
    reads = rule.startswith("Grad")
    balancer = Balancer(RULES[rule](), "abc", normalize="sum")
    step(model, balancer, x, y)
    before, (x, y) = balancer.report.weights, batch(seed=3)
    expected = true_gradients(model, x, y)
    model.trunk.requires_grad_(False)
    with pytest.warns(RuntimeWarning, match="frozen trunk") if reads else contextlib.nullcontext() as caught:
        steps(2, model, balancer, x, y)
    assert not reads or len(caught) == 1
    assert (balancer.report.weights == before) == reads
    model.trunk.requires_grad_(True)
    heads = {k: v if k.startswith("heads") else 0 * v for k, v in weighted(balancer.report.weights, expected).items()}
    assert_same_gradient(model, heads)


def test_a_layer_that_takes_no_part_in_the_losses_is_refused() -> None:
    model, (x, y) = net(), batch()
    for split in (True, False):
        balancer = Balancer(GradNorm(1.0), "abc", layer=nn.Linear(5, 7).double())
        z = model.trunk(x)
        views = balancer.split(z) if split else dict.fromkeys("abc", z)
        with pytest.raises(ValueError, match="`layer` takes no part in the losses"):
            balancer.total(model.losses(views, y))


def test_an_empty_batch_of_tasks_is_a_zero_that_goes_through_the_trunk() -> None:
    model, (x, _) = net(), batch()
    balancer = Balancer(UnitNorm(), "abc")
    balancer.split(model.trunk(x))
    balancer.total({}).backward()
    assert all(bool((p.grad == 0).all()) for p in model.trunk.parameters())
    with pytest.raises(ValueError, match="`losses` is empty"):
        balancer.total({})


def test_under_bfloat16_autocast_norms_and_weights_are_right_within_its_rounding() -> None:
    weights = {}
    for cast in (False, True):
        model, (x, y) = net(dtype=torch.float32), batch(64, dtype=torch.float32)
        for place in (None, model.trunk[2]):
            balancer = Balancer(GradNorm(1.0), "abc", layer=place)
            with torch.autocast("cpu", torch.bfloat16, enabled=cast):
                model.zero_grad()
                losses = model.losses(balancer.split(model.trunk(x)), y)
                total = balancer.total(losses)
            total.backward()
            assert total.dtype == torch.float32
            weights[cast, place is None] = balancer.report.weights
    for place in (True, False):
        assert_near(weights[True, place], weights[False, place], 0.02)
