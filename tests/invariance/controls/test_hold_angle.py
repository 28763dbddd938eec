"""Each step turns the weights by the angle that is chosen."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.invariance.controls.runs import backward, batches, invariant, net, train
from torch.optim import SGD, AdamW

from truestep.core import Recorder, Step, gram
from truestep.invariance import angular_update
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
