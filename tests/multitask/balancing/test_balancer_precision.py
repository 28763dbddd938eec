"""Half precision, and operations that allow a single backward only, below and above the split."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests import forked
from tests.multitask.nets import (
    RULES,
    Net,
    Vectors,
    assert_near,
    assert_same_gradient,
    batch,
    descend,
    net,
    step,
    steps,
    true_gradients,
    true_norms,
    weighted,
)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from truestep.multitask import Balancer
from truestep.multitask._gradnorm import GradNorm

EXTREME = {"a": 1e-6, "b": 1.0, "c": 1e6}
PLACES = ["z", "z, gram", "weight", "weight in windows", "below", "below in windows"]


def train(place: str, dtype: torch.dtype, units: Any, *, inside: bool = True, steps: int = 6) -> list[dict[str, float]]:
    """Weights after each step under autocast and a scaler, whose skipped steps skip nothing here."""
    model = net(dtype=torch.float32)
    layer = None if place.startswith("z") else model.trunk[2]
    settings = {"gram": "gram" in place, "accumulate": 2 if "windows" in place else 1}
    balancer = Balancer(GradNorm(0.5), "abc", normalize="sum", layer=layer, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=dtype == torch.float16)
    weights = []
    for seed in range(steps):
        x, y = batch(32, seed=seed, dtype=torch.float32)
        factor = units(seed)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            z = model.trunk(x)
            views = balancer.split(z) if "below" not in place else dict.fromkeys("abc", z)
            outputs = {t: model.heads[t](views[t]) for t in "abc"}
            losses = {t: factor[t] * (outputs[t] - y[t]).square().mean() for t in "abc"}
            total = balancer.total(losses) if inside else None
        if total is None:
            total = balancer.total(losses)
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        weights.append(balancer.report.weights)
    return weights


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("inside", [True, False])
def test_float16_gives_the_weights_of_float32_whatever_the_losses_units(place: str, inside: bool) -> None:
    found = train(place, torch.float16, lambda _: EXTREME, inside=inside)
    expected = train(place, torch.float32, lambda _: EXTREME)
    for mine, other in zip(found, expected, strict=True):
        assert_near(mine, other, 5e-3)


@pytest.mark.parametrize("place", ["z", "weight", "weight in windows", "below", "below in windows"])
def test_the_scale_follows_losses_that_fall_by_a_billion(place: str) -> None:
    def units(seed: int) -> dict[str, float]:
        return {t: unit * 0.03**seed for t, unit in {"a": 1e4, "b": 1e5, "c": 1e6}.items()}

    found = train(place, torch.float16, units, steps=7)
    for mine, other in zip(found, train(place, torch.float32, units, steps=7), strict=True):
        assert_near(mine, other, 1e-2)


def test_inputs_too_large_to_be_squared_in_float16_are_measured_at_the_weight() -> None:
    norms = {}
    for dtype in (torch.float32, torch.float16):
        model, (x, y) = net(dtype=torch.float32), batch(4, dtype=torch.float32)
        model.trunk[1] = nn.Hardtanh(-600, 600)
        balancer = Balancer(GradNorm(0), "abc", layer=model.trunk[2])
        with torch.autocast("cpu", dtype, enabled=dtype == torch.float16):
            balancer.total(model.losses(balancer.split(model.trunk(1000 * x)), y))
        norms[dtype] = balancer.report.norms
    assert_near(norms[torch.float16], norms[torch.float32], 5e-3)


def test_a_float16_run_is_resumed_with_its_scale() -> None:
    model = net(dtype=torch.float32)
    runs = []
    for resumed in (False, True):
        balancer = Balancer(GradNorm(0.5), "abc")
        for seed in range(6):
            if resumed and seed == 3:
                state, balancer = balancer.state_dict(), Balancer(GradNorm(0.5), "abc")
                balancer.load_state_dict(state)
            x, y = batch(32, seed=seed, dtype=torch.float32)
            with torch.autocast("cpu", torch.float16):
                losses = model.losses(balancer.split(model.trunk(x)), y)
                balancer.total({t: loss * 10.0 ** (4 - 2 * seed) for t, loss in losses.items()})  # the scale lags
        runs.append((balancer.report.weights, balancer.weigher.gauge.loss_scale.scale))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


class Once(torch.autograd.Function):
    """A square that cannot be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


class Trunk(nn.Module):
    """Flash attention, an operation that is differentiable once, or a normalisation over the batch that counts."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.passes = kind, 0
        self.inner, self.last = nn.Linear(5, 12, bias=kind != "batch norm"), nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        if self.kind == "flash attention":
            q, k, v = (part.reshape(1, 1, -1, 4) for part in h.chunk(3, 1))
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
                h = nn.functional.scaled_dot_product_attention(q, k, v).reshape(-1, 4)
        elif self.kind == "once":
            h = Once.apply(h[:, :4])
        else:
            h = self.norm(h[:, :4])
        h.register_hook(self.count)
        return self.last(h)

    def count(self, _: Tensor) -> None:
        self.passes += 1


@pytest.mark.parametrize("layer", [False, True])
@pytest.mark.parametrize("kind", ["flash attention", "once", "batch norm"])
def test_operations_above_the_split_may_allow_a_single_backward(kind: str, layer: bool) -> None:
    torch.manual_seed(4)
    model = net()
    model.trunk = Trunk(kind).double()
    x, y = batch(16)
    expected = true_gradients(model, x, y)
    norms = true_norms(model, x, y, model.trunk.last.weight if layer else None)
    balancer = Balancer(GradNorm(1.0), "abc", layer=model.trunk.last if layer else None)
    model.trunk.passes = 0
    step(model, balancer, x, y)
    assert_same_gradient(model, weighted(balancer.report.weights, expected))
    assert_near(balancer.report.norms, norms)
    assert model.trunk.passes == 1


def test_what_cannot_be_measured_holds_the_weights_warns_once_and_trains_on() -> None:
    model, (x, y) = net(), batch()
    balancer = Balancer(GradNorm(1.0), "abc", layer=model.trunk[2])
    step(model, balancer, x, y)
    before = balancer.report.weights
    model.trunk[2].weight.requires_grad_(False)
    expected = true_gradients_of(model, x, y)
    with pytest.warns(RuntimeWarning, match="could not be measured, weights stay as they are") as caught:
        steps(2, model, balancer, x, y)
    assert len(caught) == 1
    assert balancer.report.weights == before
    total = weighted(before, expected)
    for name, p in model.named_parameters():
        assert p.grad is None or torch.allclose(p.grad, total[name], rtol=1e-10)


def true_gradients_of(model: Net, x: Tensor, y: Vectors) -> dict[str, Vectors]:
    weight = model.trunk[2].weight.requires_grad_(True)
    found = true_gradients(model, x, y)
    weight.requires_grad_(False)
    return found


def test_compiled_trunks_heads_losses_and_steps_give_the_plain_weights_and_gradients() -> None:
    done = forked.run("-m", "tests.multitask.compiled", "aot_eager", warn="ignore")
    assert done.returncode == 0, done.stderr[-4000:]
    for what, errors in json.loads(done.stdout).items():
        assert len(errors) == 3
        assert max(max(pair) for pair in errors) <= 1e-12, what


def test_the_state_of_every_rule_stays_finite_in_float16() -> None:
    for rule in RULES:
        model = net(dtype=torch.float32)
        balancer = Balancer(RULES[rule](), "abc")
        for seed in range(2):
            x, y = batch(8, seed=seed, dtype=torch.float32)
            with torch.autocast("cpu", torch.float16):
                balancer.total(model.losses(balancer.split(model.trunk(x)), y)).backward()
            model.zero_grad()
            descend(model)
        assert all(torch.tensor(list(balancer.report.weights.values())).isfinite()), rule
