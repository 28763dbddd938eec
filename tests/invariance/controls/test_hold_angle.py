"""Each step turns the weights by the angle that is chosen."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.invariance.controls.runs import backward, batches, invariant, net, train
from torch import Tensor
from torch.optim import SGD, AdamW

from truestep.core import Recorder, Step, gram
from truestep.invariance import UnitSphere, angular_update
from truestep.invariance.controls import _hold
from truestep.invariance.controls._hold_angle import HoldAngle, turning_lr

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.05},
    "momentum": {"momentum": 0.9, "weight_decay": 0.01},
    "nesterov": {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    "dampening": {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01},
    "maximize": {"momentum": 0.5, "weight_decay": 0.02, "maximize": True},
}


@pytest.mark.parametrize(("name", "angle", "closure"), [*product(SETTINGS, (0.01, 0.1), (False, True))])
def test_the_angle_is_the_one_that_was_asked_for(name: str, angle: float, closure: bool) -> None:
    model = net()
    optimizer = SGD([{"params": [p]} for p in invariant(model).values()], lr=0.1, **SETTINGS[name])
    HoldAngle(optimizer, invariant(model), angle)
    steps: list[Step] = []
    recorder = Recorder(invariant(model), optimizer, steps.append)
    for batch in batches(8):
        if closure:
            optimizer.step(lambda batch=batch: backward(model, batch))
        else:
            backward(model, batch)
            optimizer.step()
    recorder.close()
    found = torch.stack([angular_update(step.took) for step in steps])
    torch.testing.assert_close(found, torch.full_like(found, angle), rtol=1e-9, atol=0)


def test_a_group_of_several_turns_as_one_block() -> None:
    model = net()
    optimizer = SGD([*invariant(model).values()], lr=0.1, momentum=0.9)
    HoldAngle(optimizer, invariant(model), 0.1)
    steps: list[Step] = []
    recorder = Recorder(invariant(model), optimizer, steps.append)
    train(model, optimizer, 5)
    recorder.close()
    assert [float(angular_update(step.took.sum())) for step in steps] == pytest.approx([0.1] * 5, rel=1e-9)
    assert float(angular_update(steps[0].took)[0]) != pytest.approx(0.1, rel=1e-3)


@given(st.floats(1e-3, 1.5), st.floats(-0.5, 0.5))
def test_the_lr_is_the_one_that_turns(angle: float, radial: float) -> None:
    w, u = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor([radial, 1.0], dtype=torch.float64)
    lr = turning_lr(gram(w, u, u), angle)
    if float(lr) > 0:
        assert float(angular_update(gram(w, u, -lr * u))) == pytest.approx(angle, rel=1e-9)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
def test_without_a_gradient_lr_stays(lr: Any) -> None:
    model = net()
    optimizer = SGD([*invariant(model).values()], lr=lr)
    HoldAngle(optimizer, invariant(model), 0.1)
    optimizer.step()
    for p in invariant(model).values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == lr


def test_a_scaler_s_gradients_are_divided_by_its_scale() -> None:
    model = net()
    optimizer = SGD([*invariant(model).values()], lr=0.1, fused=True)
    HoldAngle(optimizer, invariant(model), 0.1)
    steps: list[Step] = []
    recorder = Recorder(invariant(model), optimizer, steps.append)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for (x, y), spoiled in zip(batches(4), (False, False, True, False), strict=True):
        optimizer.zero_grad()
        scaler.scale(torch.nn.functional.cross_entropy(model(x), y)).backward()
        if spoiled:
            next(iter(invariant(model).values())).grad.fill_(torch.inf)
        before = optimizer.param_groups[0]["lr"]
        scaler.step(optimizer)
        scaler.update()
        assert not spoiled or optimizer.param_groups[0]["lr"] == before
    recorder.close()
    angles = [float(angular_update(step.took.sum())) for step in steps]
    assert angles == pytest.approx([0.1, 0.1, 0.0, 0.1], rel=1e-6)


def test_rules_whose_step_is_not_known_ahead_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`optimizer` must be torch\.optim\.SGD, found AdamW"):
        HoldAngle(AdamW([w := torch.ones(2, 2)]), {"w": w}, 0.1)


def test_without_decay_and_momentum_the_norm_grows_by_one_over_the_cosine() -> None:
    held, _, norms = walk(40, 0.2, momentum=0.0)
    assert norms == pytest.approx([norms[0] * math.cos(0.2) ** -t for t in range(41)], rel=1e-9)
    assert held.missed == 0


@pytest.mark.filterwarnings("ignore:HoldAngle")
def test_with_momentum_and_no_decay_the_buffer_wins_and_the_misses_are_counted() -> None:
    held, angles, norms = walk(300, 0.2)
    missed = sum(abs(angle - 0.2) > 1e-6 for angle in angles)
    assert held.missed == missed > 200
    assert norms[-1] > 1e10


@pytest.mark.parametrize("settings", [{"sphere": True}, {"weight_decay": 0.01}])
def test_on_a_sphere_or_with_decay_none_is_missed(settings: dict[str, Any]) -> None:
    held, angles, norms = walk(300, 0.2, **settings)
    assert angles == pytest.approx([0.2] * 300, rel=1e-6)
    assert held.missed == 0
    assert max(norms) < 100  # 1e15 without


def test_the_first_miss_warns_and_no_other_does() -> None:
    with pytest.warns(RuntimeWarning, match="HoldAngle: no lr turns the weights by `angle`") as caught:
        held, *_ = walk(60, 0.2)
    assert len(caught) == 1
    assert held.missed > 10


def test_on_a_device_misses_are_counted_there_and_told_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(RuntimeWarning, match="HoldAngle"):
        expected, *_ = walk(60, 0.2)
    monkeypatch.setattr(_hold, "_on_device", lambda setting: isinstance(setting, Tensor))
    held, angles, _ = walk(60, 0.2, lr=torch.tensor([0.1], dtype=torch.float64))  # no warning while it runs
    with pytest.warns(RuntimeWarning, match="HoldAngle") as caught:
        held.close()
    assert len(caught) == 1
    assert held.missed == expected.missed == sum(abs(angle - 0.2) > 1e-6 for angle in angles)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1, dtype=torch.float64)])
def test_decay_alone_turns_nothing_and_does_not_bring_the_weight_to_zero(lr: Any) -> None:
    weight = torch.nn.Parameter(torch.randn(6, dtype=torch.float64))
    optimizer = SGD([weight], lr=lr, weight_decay=0.01)
    held = HoldAngle(optimizer, {"w": weight}, 0.1)
    weight.grad, expected = torch.zeros_like(weight), weight.detach() * (1 - 0.1 * 0.01)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)
    assert held.missed == 0


def test_a_step_that_a_scaler_skips_is_no_miss_and_leaves_lr() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))
    optimizer = SGD([weight], lr=0.1, momentum=0.9, fused=True)
    held = HoldAngle(optimizer, {"w": weight}, 0.1)
    optimizer.state[weight]["momentum_buffer"] = torch.tensor([-9.0, 0.0], dtype=torch.float64)  # away from the origin
    weight.grad = torch.tensor([0.0, 0.1], dtype=torch.float64)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert (held.missed, optimizer.param_groups[0]["lr"]) == (0, 0.1)
    optimizer.found_inf = torch.zeros(())
    with pytest.warns(RuntimeWarning, match="HoldAngle"):
        optimizer.step()
    assert (held.missed, optimizer.param_groups[0]["lr"]) == (1, 0.1)


def walk(
    steps: int, angle: float, *, sphere: bool = False, lr: Any = 0.1, momentum: float = 0.9, weight_decay: float = 0.0
) -> tuple[HoldAngle, list[float], list[float]]:
    """Angles and norms of a weight of 16 numbers that is pulled in another direction at each step."""
    weight = torch.nn.Parameter(torch.randn(1, 16, dtype=torch.float64))
    optimizer = SGD([weight], lr=lr, momentum=momentum, weight_decay=weight_decay)
    held = HoldAngle(optimizer, {"w": weight}, angle)
    if sphere:
        UnitSphere(optimizer, {"w": weight})
    angles, norms = [], [float(weight.detach().norm())]
    for pull in torch.randn(steps, 16, dtype=torch.float64):
        w = weight.detach().clone()
        (weight.grad,) = torch.autograd.grad((weight / weight.norm() @ pull).sum(), weight)
        optimizer.step()
        angles.append(float(angular_update(gram(w, w, weight.detach() - w))))
        norms.append(float(weight.detach().norm()))
    return held, angles, norms
