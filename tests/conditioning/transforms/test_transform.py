"""What all transforms have in common: the gradient is another one for the time of the step, and nothing else is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cases import optimizer_settings
from tests.conditioning.transforms import ranks
from tests.gloo import seen_by_ranks
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from truestep.conditioning.transforms._gradient_centering import GradientCentering, centered
from truestep.conditioning.transforms._quasi_diagonal import QuasiDiagonal
from truestep.conditioning.transforms._standardizing import Standardizing
from truestep.core import Recorder, Step

Attach = Callable[[nn.Module, Optimizer], Any]
ATTACH: dict[str, Attach] = {
    "centering": GradientCentering,
    "full": Standardizing,
    "diagonal": lambda model, optimizer: Standardizing(model, optimizer, matrix="diagonal"),
}
SETTINGS = {
    f"{name}, {way}, {settings}": (name, settings)
    for name, way, _, settings in optimizer_settings({"": {}})
    if name in ("SGD", "Adam")
}
X = torch.linspace(-1, 3, 24).view(8, 3)


def net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.BatchNorm1d(4), nn.Linear(4, 2))


def backward(model: nn.Module, x: Tensor = X, scale: float = 1.0) -> None:
    (scale * model(x).square().mean()).backward()


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("attach", ATTACH.values(), ids=ATTACH)
@pytest.mark.parametrize(("rule", "settings"), SETTINGS.values(), ids=SETTINGS)
def test_an_optimizer_steps_along_it_and_the_user_s_gradient_stands_again(
    rule: str, settings: dict[str, Any], attach: Attach
) -> None:
    model, twin = net(), net()
    optimizer, plain = (getattr(torch.optim, rule)(m.parameters(), lr=0.1, **settings) for m in (model, twin))
    attach(model, optimizer)
    used: list[Tensor] = []
    for _ in range(2):
        optimizer.zero_grad()
        backward(model)
        before, mine = grads(model), [p.grad for p in model.parameters()]
        handle = optimizer.register_step_pre_hook(lambda *_: used.extend(grads(model)))
        optimizer.step()
        handle.remove()
        assert all(p.grad is g for p, g in zip(model.parameters(), mine, strict=True))
        for now, then in zip(grads(model), before, strict=True):
            assert now.equal(then)
        for p, grad in zip(twin.parameters(), used, strict=True):
            p.grad = grad
        plain.step()
        assert not used[0].equal(before[0])
        assert used[2].equal(before[2])  # of the BatchNorm
        used.clear()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


@pytest.mark.parametrize("attach", ATTACH.values(), ids=ATTACH)
def test_scale_and_reduction_of_the_loss_multiply_the_step_and_nothing_else(attach: Attach) -> None:
    moved: list[Tensor] = []
    for scale in (1.0, 2.0**10):
        model = net()
        optimizer = SGD(model.parameters(), lr=0.5 / scale)
        attach(model, optimizer)
        backward(model, scale=scale)
        optimizer.step()
        moved.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attach", ATTACH.values(), ids=ATTACH)
def test_micro_batches_are_one_batch(attach: Attach) -> None:
    moved: list[Tensor] = []
    for parts in ([8], [3, 5]):
        model = net().eval().double()
        optimizer = SGD(model.parameters(), lr=0.1)
        attach(model, optimizer)
        for part in X.double().split(parts):
            backward(model, part, len(part) / 8)
        optimizer.step()
        moved.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*moved, rtol=0, atol=1e-12)


def scaled_step(model: nn.Module, optimizer: Optimizer, scaler: Any, x: Tensor) -> None:
    optimizer.zero_grad()
    scaler.scale(model(x).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_advances_nothing(fused: bool) -> None:
    model, twin = net().eval(), net().eval()
    transforms: list[Any] = []
    for one, batches in ((model, [X, X * torch.inf, X + 1]), (twin, [X, X + 1])):
        optimizer = Adam(one.parameters(), lr=0.1, fused=fused)
        transforms.append(GradientCentering(one, optimizer, ema=0.5))
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for batch in batches:
            scaled_step(one, optimizer, scaler, batch)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        torch.testing.assert_close(p.grad, q.grad)
    first, second = (transform.state_dict()["sums"] for transform in transforms)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_left_as_the_step_would_have_left_them_under_a_scaler(fused: bool) -> None:
    found: list[list[Tensor]] = []
    for transformed in (False, True):
        model = net()
        optimizer = SGD(model.parameters(), lr=0.0, fused=fused)
        if transformed:
            GradientCentering(model, optimizer)
        scaled_step(model, optimizer, torch.amp.GradScaler("cpu", init_scale=64.0), X)
        found.append(grads(model))
    torch.testing.assert_close(*found)


def test_with_a_closure_the_gradient_of_its_evaluation_is_transformed() -> None:
    model, twin = net(), net()
    optimizer, plain = SGD(model.parameters(), lr=0.1), SGD(twin.parameters(), lr=0.1)
    GradientCentering(model, optimizer)
    GradientCentering(twin, plain)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(X).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) is not None
    backward(twin)
    plain.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.equal(q)


def test_a_moving_average_goes_on_from_its_state() -> None:
    walked: list[list[Tensor]] = []
    for interrupted in (False, True):
        model = net()
        optimizer = SGD(model.parameters(), lr=0.1)
        transform = GradientCentering(model, optimizer, ema=0.9)
        for i in range(4):
            if interrupted and i == 2:
                state = transform.state_dict()
                transform.close()
                transform = GradientCentering(model, optimizer, ema=0.9)
                transform.load_state_dict(state)
            optimizer.zero_grad(set_to_none=False)  # the step alone lets the sums go
            backward(model, X + i)
            optimizer.step()
        walked.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*walked, rtol=0, atol=0)
    sums = transform.state_dict()["sums"]["0"]
    expected = sum(0.9 ** (3 - i) * (X.double() + i).sum(0) for i in range(4))
    torch.testing.assert_close(sums[1][0], expected, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="`state` must hold sums"):
        transform.load_state_dict({"sums": {"7": sums}})


def test_clipped_gradients_are_transformed_as_they_are() -> None:
    model = net()
    optimizer = SGD(model.parameters(), lr=1.0)
    GradientCentering(model, optimizer)
    backward(model, 100 * X)
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    before, bias = model[0].weight.detach().clone(), model[0].bias.grad
    optimizer.step()
    expected = before - (model[0].weight.grad - torch.outer(bias, 100 * X.mean(0)))
    torch.testing.assert_close(model[0].weight.detach(), expected)


def test_a_layer_whose_input_was_not_seen_keeps_its_gradient_with_one_warning() -> None:
    model = nn.Linear(2, 1)
    optimizer = SGD(model.parameters(), lr=1.0)
    GradientCentering(model, optimizer)
    model.weight.grad, model.bias.grad = torch.ones(1, 2), torch.ones(1)
    before = model.weight.detach().clone()
    with pytest.warns(RuntimeWarning, match="GradientCentering saw no input of"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attach", ATTACH.values(), ids=ATTACH)
def test_narrow_formats_and_channels_last_keep_theirs(attach: Attach, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 2)).to(dtype)
    model = model.to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), lr=1.0)
    attach(model, optimizer)
    formats: list[Any] = []
    backward(model, torch.randn(6, 2, 4, 4, dtype=dtype))
    theirs = [(p.grad.dtype, p.grad.stride()) for p in model.parameters() if p.grad is not None]
    optimizer.register_step_pre_hook(
        lambda *_: formats.extend((g.dtype, g.stride()) for g in map(_grad, model.parameters()))
    )
    optimizer.step()
    assert formats == theirs
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def _grad(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def test_closed_it_changes_nothing_any_more() -> None:
    model, twin = net(), net()
    optimizer, plain = SGD(model.parameters(), lr=0.1), SGD(twin.parameters(), lr=0.1)
    GradientCentering(model, optimizer).close()
    for one, rule in ((model, optimizer), (twin, plain)):
        backward(one)
        rule.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.equal(q)


@pytest.mark.parametrize("to_none", [False, True])
def test_a_skipped_step_leaves_nothing_of_its_batch_in_the_next(to_none: bool) -> None:
    model, twin = net().eval(), net().eval()
    for one, batches in ((model, [X * torch.inf, X]), (twin, [X])):
        optimizer, scaler = SGD(one.parameters(), lr=0.01), torch.amp.GradScaler("cpu", init_scale=8.0)
        QuasiDiagonal(one, optimizer, scaler=scaler)
        for batch in batches:
            optimizer.zero_grad(set_to_none=to_none)
            scaler.scale(one(batch).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("recorder_first", [False, True])
@pytest.mark.parametrize("with_closure", [False, True])
def test_a_recorder_sees_the_gradient_that_the_step_used(with_closure: bool, recorder_first: bool, fused: bool) -> None:
    model = net().double()
    optimizer = SGD(model.parameters(), lr=0.5, fused=fused)
    steps: list[Step] = []
    attach: list[Callable[[], Any]] = [
        lambda: GradientCentering(model, optimizer),
        lambda: Recorder(dict(model.named_parameters()), optimizer, steps.append),
    ]
    for one in attach[:: -1 if recorder_first else 1]:
        one()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(X.double()).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        if with_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    for step in steps:  # d = -lr g
        torch.testing.assert_close(step.took.dd, 0.25 * step.took.gg)
        torch.testing.assert_close(step.took.gd, -0.5 * step.took.gg)
    assert len(steps) == 3


class Sharp(Optimizer):
    """Steps along the gradient at a point one gradient uphill, and notes both."""

    def __init__(self, params: Any, zeroes: bool) -> None:
        super().__init__(params, {"lr": 1.0})
        self.zeroes = zeroes
        self.read: list[list[Tensor]] = []

    def step(self, closure: Any = None) -> Any:
        params: list[Tensor] = self.param_groups[0]["params"]
        loss = closure()
        self.read.append([_grad(p).clone() for p in params])
        with torch.no_grad():
            torch._foreach_add_(params, self.read[-1])
        if self.zeroes:
            self.zero_grad(set_to_none=False)
        closure()
        self.read.append([_grad(p).clone() for p in params])
        with torch.no_grad():
            torch._foreach_sub_(params, self.read[-2])
        return loss


@pytest.mark.parametrize("zeroed", ["none", "in the closure", "in the rule"])
def test_each_evaluation_of_a_closure_is_transformed(zeroed: str) -> None:
    model = nn.Linear(3, 2).double()
    optimizer = Sharp(model.parameters(), zeroes=zeroed == "in the rule")
    GradientCentering(model, optimizer)
    plain: list[list[Tensor]] = []

    def closure() -> Tensor:
        if zeroed != "in the rule":
            optimizer.zero_grad(set_to_none=zeroed == "none")
        loss = model(X.double()).square().mean()
        alone = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        loss.backward()
        plain.append(grads(model))
        torch.testing.assert_close(plain[-1], list(alone))
        return loss

    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        optimizer.step(closure)
        assert all(g.equal(h) for g, h in zip(grads(model), plain[-1], strict=True))
    assert len(plain) == 4
    for (weight, bias), read in zip(plain, optimizer.read, strict=True):
        expected = centered(weight[None], bias[None], X.double().mean(0, keepdim=True))
        for found, one in zip(read, expected, strict=True):
            torch.testing.assert_close(found, one[0])


def test_two_on_one_layer_are_refused_until_the_first_is_closed() -> None:
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    first = GradientCentering(model, optimizer)
    hooks = [len(m._forward_hooks) for m in model]
    with pytest.raises(
        ValueError, match=r"no GradientCentering on weights .* Standardizing .* gradient.*`\.close\(\)`"
    ):
        Standardizing(model, optimizer)
    assert [len(m._forward_hooks) for m in model] == hooks
    first.close()
    Standardizing(model[0], optimizer)
    GradientCentering(model[3], optimizer)  # other layers


def test_a_layer_unfrozen_later_keeps_its_gradient_with_one_warning() -> None:
    model = net()
    model[0].requires_grad_(False)
    optimizer = SGD(model.parameters(), lr=0.0)
    GradientCentering(model, optimizer)
    backward(model)
    optimizer.step()
    model[0].requires_grad_()
    backward(model)
    with pytest.warns(RuntimeWarning, match="GradientCentering was attached before 0 could be stepped"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        (torch.optim.LBFGS, {}, "`optimizer` must step along"),
        (SGD, {"ema": 1.0}, "`ema` must be at least 0 and below 1"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(rule: Any, settings: dict[str, Any], message: str) -> None:
    model = net()
    with pytest.raises(ValueError, match=message):
        GradientCentering(model, rule(model.parameters()), **settings)


def test_ranks_see_the_whole_batch(tmp_path: Path) -> None:
    both = seen_by_ranks("tests.conditioning.transforms.ranks", ranks.WORLD, tmp_path)
    for name, attach in ranks.TRANSFORMS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the idle layer
            whole = ranks.walk(ranks.net(), attach, slice(None))
        for seen in both:
            for parameter, value in whole.items():
                torch.testing.assert_close(seen[name][parameter], value, rtol=0, atol=1e-12)
