"""What both schedulers do alike: plain and tensor lrs, groups, zero gradients, resuming."""

from typing import Any

import pytest
import torch
from tests.invariance.controls.runs import backward, batches, groups, invariant, net, train
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from truestep.invariance.controls._hold_angle import HoldAngle
from truestep.invariance.controls._hold_effective_lr import HoldEffectiveLR

HOLDS: dict[str, Any] = {"angle": HoldAngle, "effective_lr": HoldEffectiveLR}
hold = pytest.mark.parametrize("name", HOLDS)


@hold
def test_a_tensor_lr_is_written_where_it_lies(name: str) -> None:
    lrs: list[list[float]] = []
    for lr in (0.1, torch.tensor([0.1], dtype=torch.float64)):
        model = net(trained_head=True)
        optimizer = SGD(groups(model), lr=lr, momentum=0.9)
        HOLDS[name](optimizer, invariant(model), 0.05)
        setting = optimizer.param_groups[0]["lr"]
        seen: list[float] = []
        for batch in batches(10):
            backward(model, batch)
            optimizer.step()
            seen.append(float(optimizer.param_groups[0]["lr"]))
        lrs.append(seen)
        assert (optimizer.param_groups[0]["lr"] is setting) == isinstance(lr, torch.Tensor)
        assert float(lr) == 0.1  # another group may share the caller's tensor
        assert optimizer.param_groups[1]["lr"] == 0.05
    assert lrs[0] == pytest.approx(lrs[1], rel=1e-12)
    assert len(set(lrs[0])) == 10


@hold
def test_a_scheduler_keeps_its_say_in_the_other_groups(name: str) -> None:
    model, alone = net(trained_head=True), net(trained_head=True)
    optimizer, same = (SGD(groups(each), lr=0.1) for each in (model, alone))
    for each, network in ((optimizer, model), (same, alone)):
        HOLDS[name](each, invariant(network), 0.05)
    scheduler = StepLR(optimizer, 2, 0.1)
    for batch in batches(4):
        for each, network in ((optimizer, model), (same, alone)):
            backward(network, batch)
            each.param_groups[1]["lr"] = 0.05  # alike in both
            each.step()
        assert optimizer.param_groups[0]["lr"] == same.param_groups[0]["lr"]
        scheduler.step()
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.005)


@hold
def test_what_is_held_may_be_set_and_is_resumed(name: str) -> None:
    model = net()
    optimizer = SGD(groups(model), lr=0.1)
    control = HOLDS[name](optimizer, invariant(model), 0.05)
    train(model, optimizer, 1)
    before = optimizer.param_groups[0]["lr"]
    setattr(control, name, 0.01)
    state = control.state_dict()
    assert (getattr(control, name), state) == (0.01, {"target": 0.01})
    control.close()
    again = HOLDS[name](optimizer, invariant(model), 0.3)
    again.load_state_dict(state)
    assert getattr(again, name) == 0.01
    train(model, optimizer, 2, start=1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(before / 5, rel=0.2)
    again.close()
    optimizer.param_groups[0]["lr"] = 7.0
    train(model, optimizer, 3, start=2)
    assert optimizer.param_groups[0]["lr"] == 7.0


@hold
@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
def test_a_target_out_of_range_is_refused(name: str, value: float) -> None:
    model = net()
    optimizer = SGD(groups(model), lr=0.1)
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        HOLDS[name](optimizer, invariant(model), value)
    control = HOLDS[name](optimizer, invariant(model), 0.1)
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        setattr(control, name, value)
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        control.load_state_dict({"target": value})
    assert getattr(control, name) == 0.1


@hold
def test_mixed_groups_are_refused(name: str) -> None:
    model = net(trained_head=True)
    with pytest.raises(ValueError, match="group 0 holds 6 other tensors"):
        HOLDS[name](SGD(model.parameters(), lr=0.1), invariant(model), 0.1)
