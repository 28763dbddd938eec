"""The tally in half precision, under GradScaler, before clipping; one graph when compiled, no copy to the host."""

import json
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch
from tests import forked
from tests.loss.windows import batch, distance, gradient_of, net, wanted
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.loss import Tally
from truestep.loss._scale import Scale

SCALES = ("mean", "ref", "unit", "sqrt", "ngd")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", SCALES)
def test_half_precision_loses_no_more_than_its_own_rounding(dtype: torch.dtype, scale: Scale) -> None:
    exact, whole = net(torch.float64), batch(dtype=torch.float64)
    model = net().to(dtype)
    exact.load_state_dict(model.state_dict())
    whole.x.copy_(whole.x.to(dtype))
    tally = Tally("token", scale)
    for part in whole.split([1, 5, 30, 60]):
        losses = cross_entropy(model(part.x.to(dtype)).flatten(0, 1).float(), part.y.flatten(), reduction="none")
        tally.backward(losses.view_as(part.y), part.mask, part.weight)
    tally.finish(model.parameters())
    assert distance(gradient_of(model), wanted("token", scale, exact, whole)) < 16 * torch.finfo(dtype).eps


def test_a_million_tokens_stay_finite_in_float16() -> None:
    w = torch.ones(2, dtype=torch.float16, requires_grad=True)
    x = torch.rand(1 << 20, 2).half()  # the sum of either column is far beyond 65504
    tally = Tally("token")
    for _ in range(2):  # the first window takes its pre-scale from the shape, the second from the first
        w.grad = None
        for part in x.chunk(4):
            tally.backward((part * w).sum(1))
        assert tally.finish([w]).loss > 1e6
        torch.testing.assert_close(w.grad, x.double().mean(0).half(), rtol=2e-3, atol=0)


def test_without_the_pre_scale_the_sum_would_overflow() -> None:
    w = torch.ones(2, dtype=torch.float16, requires_grad=True)
    (torch.rand(1 << 20, 2).half() * w).sum(1).sum(dtype=torch.float64).backward()
    assert w.grad.isinf().all()


@pytest.mark.parametrize("scale", SCALES)
def test_a_grad_scaler_s_steps_are_those_without_it(scale: Scale) -> None:
    ends = []
    for enabled in (True, False):
        model, tally = net(), Tally("token", scale)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=enabled)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for seed in range(4):
            optimizer.zero_grad()
            for part in batch(24, seed=seed).split([1, 20, 3]):
                tally.backward(part.losses(model), part.mask, part.weight, scaler=scaler)
            scaler.unscale_(optimizer)
            tally.finish(model.parameters())
            scaler.step(optimizer)
            scaler.update()
        ends.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-7)


def test_an_overflowing_window_is_skipped_and_leaves_the_reference_alone() -> None:
    model, tally = net(), Tally("token", "ref")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(4):
        optimizer.zero_grad()
        part, before = batch(24, seed=seed), nn.utils.parameters_to_vector(model.parameters())
        poison = torch.inf if seed == 1 else 1.0
        tally.backward(part.losses(model) * poison, part.mask, scaler=scaler)
        scaler.unscale_(optimizer)
        tally.finish(model.parameters())
        scaler.step(optimizer)
        scaler.update()
        after = nn.utils.parameters_to_vector(model.parameters())
        assert torch.equal(before, after) == (seed == 1)
    assert tally.state_dict()["reference"]["count"] == 3
    assert tally.state_dict()["reference"]["loss"].isfinite()


def test_clipping_after_finish_sees_the_true_norm() -> None:
    model, whole = net(), batch()
    tally = Tally("token")
    for part in whole.split([50, 46]):
        tally.backward(part.losses(model), part.mask, part.weight)
    tally.finish(model.parameters())
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    right = wanted("token", "mean", model, whole)
    assert norm.item() == pytest.approx(right.norm().item(), rel=1e-5)
    assert distance(gradient_of(model), right / right.norm() * 0.01) < 1e-4


def test_total_and_finish_are_one_graph_each_and_are_not_compiled_again() -> None:
    """In a process of its own: what checks the types here is not there for users, and dynamo cannot follow it."""
    done = forked.run("-m", "tests.loss.compiled", warn="error")
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    assert {run["scale"] for run in runs} == set(SCALES)
    assert {run["per"] for run in runs} == {"item", "token", "weight"}
    for run in runs:
        assert run["graphs"][1] == run["graphs"][-1], run
        assert max(run["errors"]) < 1e-5, run


class HostError(RuntimeError):
    """A tensor was read on the host."""


@pytest.fixture
def no_host_read() -> Iterator[None]:
    """Whatever would wait for a device raises."""
    names = ("item", "__bool__", "__float__", "__int__", "tolist", "numpy", "cpu", "__index__")
    patches = [patch.object(Tensor, name, side_effect=HostError(name)) for name in names]
    for each in patches:
        each.start()
    yield
    for each in patches:
        each.stop()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("scale", SCALES)
def test_a_window_copies_nothing_to_the_host(scale: Scale, no_host_read: None) -> None:
    model, tally = net(), Tally("token", scale)
    for seed in range(3):
        part = batch(8, seed=seed)
        if seed == 2:
            tally.begin(part.mask.sum())
        tally.backward(part.losses(model), part.mask, part.weight)
        tally.backward(part.losses(model).mean(), count=torch.tensor(3))
        tally.finish(model.parameters())
    with pytest.raises(HostError):
        bool(torch.ones(()))
