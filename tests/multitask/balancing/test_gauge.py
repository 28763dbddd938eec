"""A micro-batch's sums hold the true norms and products of the tasks' gradients, wherever they are taken."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from tests.multitask.nets import UNITS, Net, batch, net
from torch import Tensor, nn

from truestep.multitask.balancing import _gauge
from truestep.multitask.balancing._gauge import Gauge
from truestep.multitask.balancing._loss_scale import START
from truestep.multitask.balancing._split import Split
from truestep.multitask.balancing._task_sums import TaskSums

TASKS = ("a", "b", "c")
COUNT = {"a": 8.0, "b": 2.0, "c": 5.0}
PLACES = ["features", "layer", "layers", "layer without a split"]


def weights_of(model: Net, place: str) -> Any:
    trunk = model.trunk
    return {"features": None, "layers": [trunk[0].weight, trunk[2].bias]}.get(place, trunk[2])


def counts(count: dict[str, float]) -> Tensor:
    return torch.tensor([count.get(task, 0.0) for task in TASKS], dtype=torch.float64)


def measured(
    gauge: Gauge, model: Net, x: Tensor, y: Any, *, place: str, count: dict[str, float] = COUNT, alone: bool = True
) -> TaskSums:
    z = model.trunk(x)
    split = None if "without" in place else Split(z, TASKS, apart=True)
    losses = model.losses(split.views if split else dict.fromkeys(TASKS, z), y)
    return gauge(losses, counts({t: n for t, n in count.items() if t in y}), split, alone=alone)


def gradients(model: Net, x: Tensor, y: Any, place: str) -> Tensor:
    """[tasks, elements] by autograd, 0 for an absent task."""
    z = model.trunk(x)
    losses = model.losses(dict.fromkeys(TASKS, z), y)
    layer = weights_of(model, place)
    at = [z] if layer is None else [layer.weight] if isinstance(layer, nn.Module) else layer
    rows = {t: torch.autograd.grad(loss, at, retain_graph=True) for t, loss in losses.items()}
    zero = torch.zeros(sum(w.numel() for w in at), dtype=torch.float64)
    return torch.stack([torch.cat([g.flatten() for g in rows[t]]) if t in rows else zero for t in TASKS])


def assert_products(found: Tensor, rows: Tensor) -> None:
    sizes = torch.outer(rows.norm(dim=1), rows.norm(dim=1))
    assert bool(((found - rows @ rows.T).abs() <= 1e-12 * sizes).all())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reads", ["norms", "gram"])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("rows", [3, 9])
def test_sums_hold_losses_norms_and_products_with_their_counts(place: str, reads: Any, alone: bool, rows: int) -> None:
    model, (x, y) = net(), batch(rows, "ab")
    gauge = Gauge(TASKS, reads, weights_of(model, place))
    sums = measured(gauge, model, x, y, place=place, alone=alone)
    sums = gauge.settle(sums, None, alone=alone, keep=False)
    g, n = gradients(model, x, y, place), counts({"a": 8.0, "b": 2.0})
    assert sums.tasks == TASKS
    assert sums.count.equal(n)
    assert sums.measured.equal(n)
    torch.testing.assert_close(sums.squares, (n[:, None] * g).square().sum(1), rtol=1e-12, atol=0)
    losses = torch.stack([*model.plain(x, y).values(), torch.zeros((), dtype=torch.float64)]).detach()
    torch.testing.assert_close(sums.loss, n * losses, rtol=1e-14, atol=0)
    assert not sums.kpi.any()
    assert not sums.kpis.any()
    if reads == "gram":
        assert_products(sums.inner, g)
    else:
        assert sums.gram.shape == (0, 0)


@pytest.mark.parametrize("place", PLACES[1:])
def test_gradients_at_a_weight_add_up_over_a_window_before_their_norm_is_taken(place: str) -> None:
    model = net()
    gauge = Gauge(TASKS, "gram", weights_of(model, place))
    batches = [batch(4, "abc", 1), batch(2, "ab", 2)]
    count = [{"a": 4.0, "b": 4.0, "c": 4.0}, {"a": 2.0, "b": 2.0}]
    parts = [measured(gauge, model, *b, place=place, count=n, alone=False) for b, n in zip(batches, count, strict=True)]
    window = parts[0] + parts[1]
    n = torch.stack([counts(c) for c in count])
    g = torch.stack([gradients(model, *b, place) for b in batches])
    mean = (n[:, :, None] * g).sum(0) / n.sum(0)[:, None]
    for keep in (True, False):
        sums = gauge.settle(window, None, alone=False, keep=keep)
        torch.testing.assert_close(sums.norms, mean.norm(dim=1), rtol=1e-12, atol=0)
        assert_products(sums.inner, mean)
    assert not gauge.settle(window, None, alone=False, keep=False).squares.any()


@pytest.mark.parametrize("split", [True, False])
def test_a_layer_used_twice_is_measured_with_both_uses_and_one_used_once_without_its_gradient(
    split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = nn.Linear(9, 9, dtype=torch.float64), torch.randn(3, 9, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)

    def square(z: Tensor) -> tuple[Tensor, Tensor]:
        views = Split(z, ("a",), apart=True) if split else None
        loss = (views.views["a"] if views else z).square().sum()
        (g,) = torch.autograd.grad(loss, [layer.weight], retain_graph=True)
        found = Gauge(("a",), "norms", layer)({"a": loss}, one, views, alone=True).squares
        return found, g.square().sum()[None]

    found, expected = square(layer(layer(x).tanh()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    if split:
        monkeypatch.setattr(_gauge, "weight_vectors", None)
    found, expected = square(layer(x).tanh())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_what_reads_losses_alone_takes_no_gradient() -> None:
    model, (x, y) = net(), batch()
    passes: list[int] = []
    for head in model.heads.values():
        head.register_full_backward_hook(lambda *_: passes.append(1))
    gauge = Gauge(TASKS, "losses", model.trunk[2])
    sums = gauge.settle(measured(gauge, model, x, y, place="features"), None, alone=False, keep=False)
    assert passes == []
    assert not sums.squares.any()
    assert not sums.measured.any()
    torch.testing.assert_close(sums.losses, torch.stack([*model.plain(x, y).values()]).detach(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("place", PLACES)
def test_a_loss_that_is_not_trained_counts_but_has_nothing_measured(place: str) -> None:
    model, (x, y) = net(), batch(4)
    z = model.trunk(x)
    split = None if "without" in place else Split(z, TASKS, apart=True)
    losses = model.losses(split.views if split else dict.fromkeys(TASKS, z), y)
    gauge = Gauge(TASKS, "norms", weights_of(model, place))
    sums = gauge(losses | {"b": losses["b"].detach()}, counts(COUNT), split, alone=True)
    assert sums.count.tolist() == [8.0, 2.0, 5.0]
    assert sums.measured.tolist() == [8.0, 0.0, 5.0]
    assert sums.norms.isnan().tolist() == [False, True, False]
    fixed = {t: loss.detach() for t, loss in losses.items()}
    assert not gauge(fixed, counts(COUNT), split, alone=True).measured.any()


def test_a_task_that_counts_nothing_adds_nothing_not_even_nan() -> None:
    model, (x, y) = net(), batch(4)
    split = Split(model.trunk(x), TASKS, apart=True)
    losses = model.losses(split.views, y)
    gauge = Gauge(TASKS, "gram", None)
    sums = gauge(losses | {"b": losses["b"].detach() * torch.nan}, counts(COUNT | {"b": 0.0}), split, alone=True)
    assert (sums.loss[1], sums.count[1], sums.measured[1], sums.squares[1]) == (0.0, 0.0, 0.0, 0.0)
    assert not sums.gram[1].any()


class Stuck(torch.autograd.Function):
    """A head that does not go backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        raise RuntimeError("no further")


def test_what_autograd_cannot_pass_is_warned_of_once_and_counts_as_not_measured() -> None:
    gauge = Gauge(("a",), "norms", None)

    def sums() -> TaskSums:
        split = Split(torch.ones(3, requires_grad=True) * 1, ("a",), apart=True)
        loss = Stuck.apply(split.views["a"]).sum()
        return gauge({"a": loss}, torch.ones(1, dtype=torch.float64), split, alone=True)

    with pytest.warns(RuntimeWarning, match="weights stay as they are: no further") as warned:
        both = [sums(), sums()]
    assert len(warned) == 1
    for found in both:
        assert (found.loss.item(), found.measured.item(), found.squares.item()) == (3.0, 0.0, 0.0)


def test_views_are_looked_at_once_a_task_also_when_it_comes_late() -> None:
    model, (x, y) = net(), batch(4)
    gauge = Gauge(TASKS, "norms", None)
    measured(gauge, model, x, {"a": y["a"]}, place="features")
    split = Split(model.trunk(x), TASKS, apart=True)
    views = dict(split.views)
    wrong = model.losses(views | {"c": views["c"] + views["a"]}, {"c": y["c"]})
    with pytest.raises(ValueError, match=r"the loss of 'c' was computed from views\['a'\]"):
        gauge(wrong, counts({"c": 1.0}), split, alone=True)
    mixed = model.losses(views | {"a": views["a"] + views["b"]}, {"a": y["a"]})
    gauge(mixed, counts({"a": 1.0}), split, alone=True)  # a was looked at before: no pass is spent on it again


@pytest.mark.parametrize("split", [True, False])
def test_a_layer_that_takes_no_part_is_refused_and_looked_for_again(split: bool) -> None:
    model, (x, y) = net(), batch(4)
    gauge = Gauge(TASKS, "norms", nn.Linear(2, 2))
    for _ in range(2):
        with pytest.raises(ValueError, match="`layer` takes no part in the losses: give a layer below the features"):
            measured(gauge, model, x, y, place="layer" if split else "layer without a split")


def test_a_copy_looks_for_its_layer_anew() -> None:
    model, (x, y) = net(), batch(4)
    gauge = Gauge(TASKS, "norms", model.trunk[2])
    measured(gauge, model, x, y, place="layer")
    both, there = copy.deepcopy((model, gauge)), pickle.loads(pickle.dumps((model, gauge)))
    for other, copied in (both, there):
        sums = measured(copied, other, x, y, place="layer")
        assert sums.squares.equal(measured(gauge, model, x, y, place="layer").squares)
        with pytest.raises(ValueError, match="not of its copy"):
            measured(copy.deepcopy(copied), other, x, y, place="layer")


def test_the_layer_stays_the_models_alone() -> None:
    gauge = Gauge(TASKS, "norms", net().trunk)
    assert [*gauge.parameters()] == []
    assert [*gauge.state_dict()] == ["loss_scale.scale"]


@pytest.mark.parametrize("place", ["features", "layer", "layer without a split"])
def test_float16_is_measured_with_scales_that_are_taken_out_again(place: str) -> None:
    model, (x, y) = net(dtype=torch.float32), batch(4, dtype=torch.float32)
    plain = Gauge(TASKS, "norms", weights_of(model, place))
    exact = measured(plain, model, x, y, place=place).norms
    gauge = Gauge(TASKS, "norms", weights_of(model, place))
    with torch.autocast("cpu", torch.float16):
        found = measured(gauge, model, x, y, place=place).norms
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=0)
    assert exact.max() / exact.min() > UNITS["c"]
    assert gauge.loss_scale.found
    assert gauge.loss_scale.scale.unique().numel() > 1
    assert not plain.loss_scale.found
    assert plain.loss_scale.scale.tolist() == [START] * 3


@pytest.mark.parametrize("place", ["features", "layer", "layer without a split"])
def test_the_scale_of_float16_follows_every_measured_loss(place: str) -> None:
    model, (x, y) = net(dtype=torch.float32), batch(4, dtype=torch.float32)
    gauge = Gauge(TASKS, "norms", weights_of(model, place))
    scales = []
    for unit in (1.0, 2.0**-6):
        with torch.autocast("cpu", torch.float16):
            z = model.trunk(x)
            split = None if "without" in place else Split(z, TASKS, apart=True)
            losses = model.losses(split.views if split else dict.fromkeys(TASKS, z), y)
            gauge({t: unit * loss for t, loss in losses.items()}, counts(COUNT), split, alone=True)
        scales.append(gauge.loss_scale.scale.clone())
    assert (scales[1] / scales[0])[1:].tolist() == pytest.approx([64.0, 64.0], rel=0.51)  # a's is at its end
