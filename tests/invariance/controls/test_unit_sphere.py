"""Projected weights keep their norms, and lr alone says how far a step turns them."""

import copy
import io
from typing import Any

import pytest
import torch
from tests.invariance.controls.runs import apart, backward, batches, groups, invariant, net, train
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR

from truestep.core import Recorder, Step
from truestep.invariance import angular_update, effective_lr
from truestep.invariance.controls._unit_sphere import UnitSphere, projection_factor, rounding
from truestep.loss import guard


def sphere_net(
    radius: float | None = 1.0, rule: Any = SGD, **settings: Any
) -> tuple[nn.Module, dict[str, Tensor], Optimizer, UnitSphere]:
    model = net()
    optimizer = rule(groups(model), **{"lr": 0.1, "weight_decay": 0.0, **settings})
    return model, invariant(model), optimizer, UnitSphere(optimizer, invariant(model), radius=radius)


def norms(params: dict[str, Tensor]) -> Tensor:
    return torch.cat([p.detach().double().norm(dim=1) for p in params.values()])


def test_the_effective_lr_is_lr_at_every_step_and_the_angle_its_tangent() -> None:
    model, params, optimizer, _ = sphere_net()
    steps: list[Step] = []
    recorder = Recorder(params, optimizer, steps.append, units=params)
    train(model, optimizer, 40)
    recorder.close()
    for step in steps:
        alpha = effective_lr(step.took, step.asked.lr)
        torch.testing.assert_close(alpha, torch.full_like(alpha, 0.1), rtol=1e-10, atol=0)
        tangent = 0.1 * step.took.gg.sqrt()  # the gradient at the unit sphere: that is where the weight is
        torch.testing.assert_close(angular_update(step.took).tan(), tangent, rtol=1e-8, atol=1e-14)


def test_a_recorder_that_came_first_sees_the_step_from_sphere_to_sphere() -> None:
    model, params, optimizer, sphere = sphere_net()
    sphere.close()
    steps: list[Step] = []
    recorder = Recorder(params, optimizer, steps.append, units=params)
    UnitSphere(optimizer, params)
    train(model, optimizer, 2)
    recorder.close()
    for step in steps:
        after = step.took.ww + 2 * step.took.wd + step.took.dd
        torch.testing.assert_close(after, torch.ones_like(after), rtol=1e-13, atol=0)


def test_it_is_sgd_whose_lr_is_alpha_times_the_square_of_each_unit_s_norm() -> None:
    model, _, optimizer, _ = sphere_net(lr=3.0)
    free = net()
    train(model, optimizer, 100)
    for batch in batches(100):
        backward(free, batch)
        with torch.no_grad():
            for w in invariant(free).values():
                assert w.grad is not None
                w.sub_(3.0 * w.square().sum(1, keepdim=True) * w.grad)
    assert apart(model, free) < 1e-11
    assert float((norms(invariant(free)) / norms(invariant(net()))).max()) > 1.1  # unprojected, they have grown


@pytest.mark.parametrize("rule", [SGD, AdamW])
def test_each_unit_keeps_the_radius_that_it_had(rule: Any) -> None:
    model, params, optimizer, _ = sphere_net(None, rule)
    before = norms(params)
    train(model, optimizer, 20)
    torch.testing.assert_close(norms(params), before, rtol=1e-14, atol=0)
    assert before.unique().numel() == 32


def test_tensors_keep_theirs_as_a_whole() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 16, bias=False), nn.LayerNorm(16, eps=1e-30), nn.Linear(16, 5)).double()
    params = {"0.weight": model[0].weight}
    optimizer = SGD([*params.values()], lr=0.1)
    UnitSphere(optimizer, params, per="tensor", radius=2.0)
    rows = norms(params)
    train(model, optimizer, 20)
    assert float(model[0].weight.detach().norm()) == pytest.approx(2.0, rel=1e-14)
    assert float((norms(params) - rows).abs().max()) > 1e-3


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2), (6, 1)])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
)
def test_projecting_twice_changes_no_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        w = torch.randn(shape, dtype=dtype)
        w = w.contiguous(memory_format=torch.channels_last) if w.dim() == 4 else w
        optimizer = SGD([w], lr=0.1)
        sphere = UnitSphere(optimizer, {"w": w}, radius=0.7)
        size = torch.linalg.vector_norm(w.flatten(1).to(torch.promote_types(dtype, torch.complex64)), dim=1)
        torch.testing.assert_close(size, torch.full_like(size, 0.7), rtol=rounding(dtype) + 1e-6, atol=0)
        before = w.clone()
        optimizer.step()
        assert torch.equal(w, before)
        sphere.close()
        UnitSphere(optimizer, {"w": w}, radius=0.7)
        assert torch.equal(w, before)


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_the_factor_knows_no_scale(scale: float) -> None:
    norm = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(projection_factor(scale * norm, scale * one), projection_factor(norm, one))


def test_a_weight_that_a_step_zeroed_is_left_alone_and_nan_stays_nan() -> None:
    w = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    optimizer = SGD([w], lr=1.0)
    UnitSphere(optimizer, {"w": w})
    w.grad = torch.tensor([[3.0, 4.0], [torch.nan, 0.0]])
    optimizer.step()
    assert w[0].tolist() == [0.0, 0.0]
    assert w[1].isnan().any()


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_leaves_every_bit(fused: bool) -> None:
    model, _, optimizer, _ = sphere_net(None, AdamW, fused=fused)
    train(model, optimizer, 3)
    skips = guard(optimizer)
    before = copy.deepcopy([*model.parameters()])
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    optimizer.step()
    assert skips.skipped == 1
    assert all(map(torch.equal, model.parameters(), before))


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    model, _, optimizer, sphere = sphere_net(None, momentum=0.9)
    train(model, optimizer, 20)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), sphere.state_dict()], file)
    train(model, optimizer, 40, start=20)
    again, _, resumed, new = sphere_net(1.0, momentum=0.9)
    file.seek(0)
    for part, state in zip((again, resumed, new), torch.load(file), strict=True):
        part.load_state_dict(state)
    train(again, resumed, 40, start=20)
    assert all(map(torch.equal, again.parameters(), model.parameters()))


SCHEDULERS = {
    "StepLR": lambda optimizer: StepLR(optimizer, 5, 0.3),
    "CosineAnnealingLR": lambda optimizer: CosineAnnealingLR(optimizer, 20),
    "LambdaLR": lambda optimizer: LambdaLR(optimizer, lambda t: min(1.0, t / 10)),
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, max_lr=0.2, total_steps=21, cycle_momentum=False),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_lr_is_one_of_the_effective_lr(name: str) -> None:
    model, params, optimizer, _ = sphere_net()
    scheduler = SCHEDULERS[name](optimizer)
    for batch in batches(20):
        backward(model, batch)
        lr = optimizer.param_groups[0]["lr"]
        before = {key: p.detach().clone() for key, p in params.items()}
        optimizer.step()
        scheduler.step()
        for key, p in params.items():
            assert p.grad is not None
            straight = before[key] - lr * p.grad
            torch.testing.assert_close(p.detach(), straight / straight.norm(dim=1, keepdim=True), rtol=0, atol=1e-14)


def test_closed_it_lets_the_norms_go() -> None:
    model, params, optimizer, sphere = sphere_net()
    sphere.close()
    train(model, optimizer, 5)
    assert float(norms(params).min()) > 1.0


def test_decay_on_projected_weights_is_told_of_and_does_what_is_said() -> None:
    with pytest.warns(RuntimeWarning, match="decays the projected weights of group 0"):
        model, params, optimizer, _ = sphere_net(weight_decay=0.1)
    steps: list[Step] = []
    recorder = Recorder(params, optimizer, steps.append, units=params)
    train(model, optimizer, 3)
    recorder.close()
    alpha = 0.1 / (1 - 0.1 * 0.1)
    tangents = [angular_update(step.took).tan() / step.took.gg.sqrt() for step in steps]
    torch.testing.assert_close(
        torch.stack(tangents), torch.full((3, 32), alpha, dtype=torch.float64), rtol=1e-7, atol=0
    )


@pytest.mark.usefixtures("unchecked")
def test_what_has_no_sphere_is_refused() -> None:
    w, b = torch.randn(4, 3), torch.randn(4)
    optimizer = SGD([w, b], lr=0.1)
    with pytest.raises(ValueError, match=r"`params` must have 2 dimensions or more .* found \{'b': \(4,\)\}"):
        UnitSphere(optimizer, {"w": w, "b": b})
    with pytest.raises(ValueError, match="`per` must be"):
        UnitSphere(optimizer, {"w": w}, per="row")  # type: ignore[arg-type]
    for radius in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="`radius` must be a positive number"):
            UnitSphere(optimizer, {"w": w}, radius=radius)
    w[2] = 0
    with pytest.raises(ValueError, match="'w' has 1 of norm 0 or not finite, the first is number 2"):
        UnitSphere(optimizer, {"w": w})
    with pytest.raises(ValueError, match="`optimizer` must be a torch"):
        UnitSphere(object(), {"w": w})  # type: ignore[arg-type]


def test_a_state_of_other_weights_is_refused() -> None:
    *_, sphere = sphere_net()
    with pytest.raises(ValueError, match="`state` must hold radii of shapes"):
        sphere.load_state_dict({"radii": {"0.weight": torch.ones(16, dtype=torch.float64)}})
