"""A run goes on as it was with weights of another length, if all that must follows them."""

from typing import Any

import pytest
import torch
from tests.invariance.controls.runs import apart, backward, batches, groups, invariant, logits, net, train
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import SWALR

from truestep.invariance import ExponentialTwin, UnitSphere
from truestep.invariance.controls._rescale import powers, rescale

RULES: dict[str, Any] = {
    "SGD": lambda params: SGD(params, lr=0.1, weight_decay=0.01),
    "momentum": lambda params: SGD(params, lr=0.1, weight_decay=0.01, momentum=0.9),
    "nesterov": lambda params: SGD(params, lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=True),
    "dampening": lambda params: SGD(params, lr=0.1, weight_decay=0.01, momentum=0.9, dampening=0.3),
    "AdamW": lambda params: AdamW(params, lr=0.01, weight_decay=0.1),
    "AdamW, eps 1e-3": lambda params: AdamW(params, lr=0.01, weight_decay=0.1, eps=1e-3, foreach=False),
    "AdamW, amsgrad, fused": lambda params: AdamW(params, lr=0.01, weight_decay=0.1, amsgrad=True, fused=True),
    "Adam": lambda params: Adam(params, lr=0.01, weight_decay=0.01),
    "Adam, decoupled": lambda params: Adam(params, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
}


@pytest.mark.parametrize("c", [0.1, 5.0])
@pytest.mark.parametrize("name", RULES)
def test_the_rescaled_run_computes_the_same(name: str, c: float) -> None:
    run, other = net(trained_head=True), net(trained_head=True)
    one, two = (RULES[name](groups(model)) for model in (run, other))
    train(run, one, 40)
    train(other, two, 20)
    before = logits(other)
    rescale(two, invariant(other), c)
    torch.testing.assert_close(logits(other), before, rtol=0, atol=1e-12)
    train(other, two, 40, start=20)
    assert apart(run, other) < (1e-10 if "SGD" in name or one.__class__ is SGD else 1e-8)


@pytest.mark.parametrize("name", RULES)
def test_there_and_back_by_a_power_of_two_changes_no_bit(name: str) -> None:
    model = net()
    optimizer = RULES[name](groups(model))
    train(model, optimizer, 3)
    before = [p.detach().clone() for p in model.parameters()], optimizer.state_dict()
    state = {i: {k: torch.as_tensor(v).clone() for k, v in s.items()} for i, s in before[1]["state"].items()}
    settings = [dict(group) for group in before[1]["param_groups"]]
    rescale(optimizer, invariant(model), 8)
    assert not torch.equal(next(iter(model.parameters())), before[0][0])
    rescale(optimizer, invariant(model), 0.125)
    assert all(map(torch.equal, model.parameters(), before[0]))
    assert optimizer.state_dict()["param_groups"] == settings
    assert all(torch.equal(optimizer.state_dict()["state"][i][k], v) for i, s in state.items() for k, v in s.items())


@pytest.mark.parametrize("forgotten", ["momentum_buffer", "weight_decay", "exp_avg", "exp_avg_sq", "eps"])
def test_nothing_of_it_may_be_forgotten(forgotten: str) -> None:
    name = "momentum" if forgotten in ("momentum_buffer", "weight_decay") else "AdamW, eps 1e-3"
    run, other = net(), net()
    one, two = (RULES[name](groups(model)) for model in (run, other))
    train(run, one, 40)
    train(other, two, 20)
    setting = two.param_groups[0].get(forgotten)
    states = {p: s[forgotten].clone() for p, s in two.state.items() if forgotten in s}
    rescale(two, invariant(other), 5.0)
    if setting is not None:
        two.param_groups[0][forgotten] = setting
    for p, kept in states.items():
        two.state[p][forgotten] = kept
    train(other, two, 40, start=20)
    assert apart(run, other) > 1e-6


def test_gradients_that_are_there_follow_the_weights() -> None:
    run, other = net(), net()
    one, two = (RULES["momentum"](groups(model)) for model in (run, other))
    batch = next(batches(1))
    backward(run, batch)
    backward(other, batch)
    rescale(two, invariant(other), 3.0)
    one.step()
    two.step()
    assert apart(run, other) < 1e-12


def test_a_tensor_lr_that_groups_share_is_multiplied_once_and_for_its_group_alone() -> None:
    w, v, b = (nn.Parameter(torch.ones(2)) for _ in range(3))
    shared = torch.tensor(0.5)
    optimizer = SGD([{"params": [w]}, {"params": [v]}, {"params": [b]}], lr=shared)
    rescale(optimizer, {"w": w, "v": v}, 2.0)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [2.0, 2.0, 0.5]


def sequential(optimizer: Optimizer) -> SequentialLR:
    return SequentialLR(optimizer, [ConstantLR(optimizer, 0.1, 5), LambdaLR(optimizer, lambda t: 0.9**t)], [10])


SCHEDULERS: dict[str, Any] = {
    "StepLR": lambda optimizer: StepLR(optimizer, 7, 0.5),
    "CosineAnnealingLR": lambda optimizer: CosineAnnealingLR(optimizer, 40),
    "LambdaLR": lambda optimizer: LambdaLR(optimizer, lambda t: 1 / (1 + t)),
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, max_lr=[0.3, 0.2], total_steps=41),
    "CyclicLR": lambda optimizer: CyclicLR(optimizer, [0.01, 0.02], [0.2, 0.1], step_size_up=6),
    "SequentialLR": sequential,
    "ChainedScheduler": lambda optimizer: ChainedScheduler([ExponentialLR(optimizer, 0.9), StepLR(optimizer, 9)]),
    "SWALR": lambda optimizer: SWALR(optimizer, [0.01, 0.02], anneal_epochs=30),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_go_on_at_the_new_scale(name: str) -> None:
    lrs: list[list[list[float]]] = []
    for c in (1.0, 5.0):
        model = net(trained_head=True)
        optimizer = RULES["momentum"](groups(model))
        scheduler = SCHEDULERS[name](optimizer)
        seen: list[list[float]] = []
        for index in range(40):
            optimizer.step()
            scheduler.step()
            if index == 4:
                rescale(optimizer, invariant(model), c, scheduler=scheduler)
                assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
            seen.append([group["lr"] for group in optimizer.param_groups])
        lrs.append(seen[4:])
    for (before, other), (after, same) in zip(*lrs, strict=True):
        assert after == pytest.approx(25.0 * before, rel=1e-12)
        assert same == other


def test_the_floor_of_a_plateau_scheduler_follows() -> None:
    model = net(trained_head=True)
    optimizer = SGD(groups(model), lr=0.1)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=0, min_lr=[0.05, 0.01])
    rescale(optimizer, invariant(model), 2.0, scheduler=[scheduler])
    for _ in range(5):
        scheduler.step(1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.01])


def test_the_floor_of_a_cosine_follows_where_all_groups_do() -> None:
    model = net()
    optimizer = SGD(groups(model), lr=0.1)
    scheduler = CosineAnnealingLR(optimizer, 10, eta_min=0.01)
    rescale(optimizer, invariant(model), 2.0, scheduler=scheduler)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.04)


def test_what_cannot_be_rescaled_is_refused_and_nothing_is_changed() -> None:
    model = net(trained_head=True)
    optimizer = SGD(groups(model), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    scheduler = CosineAnnealingLR(optimizer, 10, eta_min=0.01)
    with pytest.raises(ValueError, match="`scheduler` must be given"):
        rescale(optimizer, invariant(model), 2.0)
    with pytest.raises(ValueError, match="`scheduler` must have eta_min=0"):
        rescale(optimizer, invariant(model), 2.0, scheduler=scheduler)
    other = SGD(groups(net(trained_head=True)), lr=0.1)
    with pytest.raises(ValueError, match="`scheduler` must be one of `optimizer`, found a StepLR of another"):
        rescale(optimizer, invariant(model), 2.0, scheduler=StepLR(other, 3))
    for c in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`c` must be a positive number"):
            rescale(optimizer, invariant(model), c, scheduler=())
    with pytest.raises(ValueError, match="group 0 holds 6 other tensors"):
        rescale(SGD(model.parameters(), lr=0.1), invariant(model), 2.0)
    with pytest.raises(ValueError, match=r"`optimizer` must be SGD, Adam or AdamW of torch\.optim, found RMSprop"):
        rescale(RMSprop(groups(model)), invariant(model), 2.0)
    assert all(map(torch.equal, model.parameters(), before))
    rescale(optimizer, invariant(model), 2.0, scheduler=())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4)


@pytest.mark.parametrize("control", [UnitSphere, ExponentialTwin])
def test_weights_whose_length_a_control_keeps_are_not_rescaled_under_it(control: Any) -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    optimizer = SGD([weight], lr=0.1)
    attached = control(optimizer, {"weight": weight})
    with pytest.raises(ValueError, match=f"`optimizer` must have no {control.__name__} on it"):
        rescale(optimizer, {"weight": weight}, 2.0)
    assert weight.eq(1).all()
    attached.close()
    rescale(optimizer, {"weight": weight}, 2.0)
    assert weight.eq(2).all()


def test_the_powers_are_the_published_ones() -> None:
    params = [torch.ones(2)]
    found = {name: powers(rule := RULES[name](params), rule.param_groups[0]) for name in ("SGD", "AdamW", "Adam")}
    assert {name: (p.lr, p.weight_decay, p.eps) for name, p in found.items()} == {
        "SGD": (2, -2, 0),
        "AdamW": (1, -1, -1),
        "Adam": (1, -2, -1),
    }


def warm(optimizer: Optimizer) -> SequentialLR:
    parts = [ConstantLR(optimizer, 0.1, 5), CosineAnnealingLR(optimizer, 30, eta_min=0.01)]
    return SequentialLR(optimizer, parts, [10])


def test_a_scheduler_that_is_reached_twice_is_rescaled_once() -> None:
    ways: list[Any] = [lambda s: s, lambda s: [s, s], lambda s: [s, *s._schedulers], lambda s: (*s._schedulers, s)]
    lrs: list[list[float]] = []
    for given in ways:
        model = net()
        optimizer = SGD(groups(model), lr=0.1)
        scheduler = warm(optimizer)
        rescale(optimizer, invariant(model), 2.0, scheduler=given(scheduler))
        lrs.append([])
        for _ in range(40):
            optimizer.step()
            scheduler.step()
            lrs[-1].append(optimizer.param_groups[0]["lr"])
    assert lrs[0] == lrs[1] == lrs[2] == lrs[3]
    assert min(lrs[0]) == pytest.approx(0.04)  # 4 times the floor at weights of twice the length


class Floored(ExponentialLR):
    """With a floor under a name that nobody knows."""


def test_schedulers_that_are_not_torch_s_are_named_in_a_warning() -> None:
    model = net()
    optimizer = SGD(groups(model), lr=0.1)
    scheduler = ChainedScheduler([Floored(optimizer, 0.9), StepLR(optimizer, 3)])
    with pytest.warns(RuntimeWarning, match="`scheduler` holds Floored, not torch's own"):
        rescale(optimizer, invariant(model), 2.0, scheduler=scheduler)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4)


def test_a_plateau_scheduler_that_is_not_given_is_not_noticed_as_the_docstring_says() -> None:
    model = net()
    optimizer = SGD(groups(model), lr=0.1)
    scheduler = ReduceLROnPlateau(optimizer, patience=0, factor=0.1, min_lr=0.05)
    rescale(optimizer, invariant(model), 2.0)
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)  # given, it would be 0.2
    assert rescale.__doc__ is not None
    assert "`ReduceLROnPlateau` leaves nothing" in rescale.__doc__
