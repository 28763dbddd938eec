"""The twin without decay computes at each step what the run with decay does."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.invariance.controls.runs import (
    apart,
    backward,
    batches,
    groups,
    invariant,
    logits,
    net,
    random_settings,
    train,
)
from tests.invariance.controls.twins import SETTINGS, SGDW, pair
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR

from truestep.invariance.controls import _exponential_twin
from truestep.invariance.controls._exponential_twin import ExponentialTwin


@pytest.mark.parametrize("trained_head", [False, True])
def test_the_logits_are_the_run_s_over_300_steps_of_random_lr_and_decay(trained_head: bool) -> None:
    run, optimizer, other, twin_optimizer, twin = pair(trained_head=trained_head)
    train(run, optimizer, 300, each=random_settings(optimizer))
    train(other, twin_optimizer, 300, each=random_settings(twin_optimizer))
    assert apart(run, other) < 1e-10
    assert twin.log_growth[0] > 2.0  # and the twin is far from the run: its weights are longer by more than e²
    for name, w in invariant(run).items():
        ratio = (invariant(other)[name] / w).detach()
        torch.testing.assert_close(ratio, torch.full_like(w, float(ratio.mean())), rtol=1e-8, atol=0)


@pytest.mark.parametrize("settings", [{"foreach": True}, {"foreach": False}, {"fused": True}, {"maximize": True}])
def test_each_implementation_of_sgd_has_its_twin(settings: dict[str, Any]) -> None:
    run, optimizer, other, twin_optimizer, _ = pair(**settings)
    for model, each in ((run, optimizer), (other, twin_optimizer)):
        train(model, each, 60, each=random_settings(each))
    assert apart(run, other) < 1e-11


def test_without_momentum_the_twin_s_lr_is_the_textbook_one() -> None:
    run, optimizer, other, twin_optimizer, _ = pair(momentum=0.0)
    seen: list[float] = []
    twin_optimizer.register_step_pre_hook(lambda *_: seen.append(twin_optimizer.param_groups[0]["lr"]))
    train(run, optimizer, 50)
    train(other, twin_optimizer, 50)
    assert apart(run, other) < 1e-11
    expected = [0.1 * (1 - 0.1 * 0.01) ** (-2 * t - 1) for t in range(50)]
    assert seen == pytest.approx(expected, rel=1e-12)


def test_the_lr_grows_by_the_root_in_the_end() -> None:
    _, _, other, twin_optimizer, twin = pair(lr=0.01)
    growth: list[float] = []
    train(other, twin_optimizer, 250, each=lambda _: growth.append(twin.log_growth[0]))
    b = 1 + 0.9 - 0.01 * 0.01  # the root of x² - (1 + mu - lr wd) x + mu
    root = (b + math.sqrt(b * b - 4 * 0.9)) / 2
    assert growth[-1] - growth[-2] == pytest.approx(-math.log(root), rel=1e-9)
    assert all(b >= a for a, b in pairwise(growth))


@pytest.mark.parametrize("corrected", [True, False])
def test_the_root_formula_fails_without_its_buffer(corrected: bool) -> None:
    run, other = net(), net()
    optimizer, plain = SGD(groups(run), **SETTINGS), SGD(groups(other), lr=0.1, momentum=0.9)
    b = 1 + 0.9 - 0.1 * 0.01
    root = (b + math.sqrt(b * b - 4 * 0.9)) / 2
    for p in invariant(other).values():
        buffer = -(1 - root) / (0.1 * root) * p.detach() if corrected else torch.zeros_like(p)
        plain.state[p]["momentum_buffer"] = buffer

    def grow(t: int) -> None:
        plain.param_groups[0]["lr"] = 0.1 * root ** (-2 * t - 1)

    train(run, optimizer, 300)
    train(other, plain, 300, each=grow)
    assert (apart(run, other) < 1e-10) if corrected else (apart(run, other) > 0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_decoupled_decay_has_a_twin_with_changed_momentum(momentum: float) -> None:
    run, optimizer, other, twin_optimizer, _ = pair(decoupled=True, rule=SGDW, twin_rule=SGD, momentum=momentum)
    train(run, optimizer, 80, each=random_settings(optimizer))
    train(other, twin_optimizer, 80, each=random_settings(twin_optimizer))
    assert apart(run, other) < 1e-10


def test_a_subclass_whose_step_calls_sgd_s_is_one_step() -> None:
    run, optimizer, other, twin_optimizer, _ = pair(decoupled=True, rule=SGDW)
    train(run, optimizer, 50, each=random_settings(optimizer))
    train(other, twin_optimizer, 50, each=random_settings(twin_optimizer))
    assert apart(run, other) < 1e-11


def test_coupled_and_decoupled_twins_differ() -> None:
    _, _, one, optimizer, _ = pair()
    _, _, two, decoupled, _ = pair(decoupled=True)
    train(one, optimizer, 40)
    train(two, decoupled, 40)
    assert apart(one, two) > 1e-3


def test_a_tensor_lr_gives_the_same_twin() -> None:
    run, optimizer, other, twin_optimizer, twin = pair()
    for group in twin_optimizer.param_groups:
        group["lr"] = torch.tensor([0.1], dtype=torch.float64)
    setting = twin_optimizer.param_groups[0]["lr"]
    train(run, optimizer, 70)
    train(other, twin_optimizer, 70)
    assert apart(run, other) < 1e-11
    assert twin_optimizer.param_groups[0]["lr"] is setting
    assert setting.tolist() == [0.1]
    assert all(isinstance(frame.scale, float) for frame in twin._frames.values())


def test_a_tensor_decay_and_decoupled_decay_with_tensors_too() -> None:
    run, optimizer, other, twin_optimizer, _ = pair(decoupled=True, rule=SGDW, twin_rule=SGD)
    for group in twin_optimizer.param_groups:
        group["weight_decay"] = torch.tensor(0.01, dtype=torch.float64)
        group["lr"] = torch.tensor(0.1, dtype=torch.float64)
    train(run, optimizer, 70)
    train(other, twin_optimizer, 70)
    assert apart(run, other) < 1e-11


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are left unread, as those that lie on a device."""

    def unread(setting: Any) -> Any:
        return setting.detach().reshape(()).double() if isinstance(setting, Tensor) else setting

    monkeypatch.setattr(_exponential_twin, "as_number", unread)


def with_tensor_lr(optimizer: Any, lr: float = 0.1) -> None:
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(lr, dtype=torch.float64)


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("decay", [0.05, 0.5, 1.0])
def test_strong_decay_has_a_twin_at_a_tensor_lr_too(decay: float, where: str, request: pytest.FixtureRequest) -> None:
    if where == "device":
        request.getfixturevalue("device")
    run, optimizer, other, twin_optimizer, twin = pair(weight_decay=decay)
    with_tensor_lr(twin_optimizer)
    train(run, optimizer, 100)
    train(other, twin_optimizer, 100)
    assert apart(run, other) < 1e-10
    assert isinstance(twin._frames[0].scale, Tensor) == (where == "device")
    assert all(float(p.detach().norm()) < 1e5 for p in invariant(other).values())


@pytest.mark.usefixtures("device")
def test_on_a_device_the_twin_is_the_one_of_the_host_to_the_last_bit() -> None:
    ends: list[nn.Module] = []
    for tensor in (False, True):
        _, _, model, optimizer, twin = pair(weight_decay=0.3, limit=2)
        if tensor:
            with_tensor_lr(optimizer)
        train(model, optimizer, 60)
        ends.append(model)
        assert twin._powers[0] > 0
    assert all(map(torch.equal, ends[0].parameters(), ends[1].parameters()))


@pytest.mark.usefixtures("device")
def test_on_a_device_float32_does_not_overflow_between_two_looks() -> None:
    model = net(dtype=torch.float32, eps=1e-5)
    optimizer = SGD(groups(model), lr=torch.tensor(0.1), weight_decay=9.9)  # weights times 100 in one step
    twin = ExponentialTwin(optimizer, invariant(model))
    train(model, optimizer, 100)
    assert twin.log_growth[0] > 400
    assert all(bool(p.isfinite().all()) and float(p.detach().norm()) < 1e6 for p in invariant(model).values())


def test_a_decay_of_one_or_more_is_told_at_once_where_lr_can_be_read() -> None:
    _, _, model, optimizer, _ = pair(weight_decay=11.0, momentum=0.0)
    before = [p.detach().clone() for p in model.parameters()]
    for lr in (0.1, torch.tensor(0.1), torch.tensor(math.nan), math.nan):
        optimizer.param_groups[0]["lr"] = lr
        with pytest.raises(ValueError, match="`lr` x `weight_decay` must stay below 1"):
            train(model, optimizer, 1)
        assert all(map(torch.equal, model.parameters(), before))


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("lr", [0.1, math.nan])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_on_a_device_it_is_told_at_the_next_look_and_the_weights_stand_still(lr: float, momentum: float) -> None:
    _, _, model, optimizer, twin = pair(weight_decay=1.0, momentum=momentum)
    with_tensor_lr(optimizer)
    train(model, optimizer, 3)
    before = {name: p.detach().clone() for name, p in invariant(model).items()}
    optimizer.param_groups[0]["weight_decay"] = 11.0
    with_tensor_lr(optimizer, lr)
    train(model, optimizer, 63, start=3)
    assert all(torch.equal(p, before[name]) for name, p in invariant(model).items())
    for look in (lambda: train(model, optimizer, 64, start=63), twin.state_dict, lambda: twin.log_growth, twin.close):
        with pytest.raises(ValueError, match="`lr` x `weight_decay` must stay below 1"):
            look()
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_cycled_momentum_and_lr_keep_the_twin() -> None:
    run, optimizer, other, twin_optimizer, _ = pair()
    for model, each in ((run, optimizer), (other, twin_optimizer)):
        scheduler = OneCycleLR(each, max_lr=0.3, total_steps=60)
        train(model, each, 60, each=lambda _, scheduler=scheduler: scheduler.step() if _ else None)
    assert apart(run, other) < 1e-10


SCHEDULERS = {
    "StepLR": lambda optimizer: StepLR(optimizer, 20, 0.3),
    "CosineAnnealingLR": lambda optimizer: CosineAnnealingLR(optimizer, 60, eta_min=0.01),
    "LambdaLR": lambda optimizer: LambdaLR(optimizer, lambda t: min(1.0, t / 10)),  # its first lr is 0
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, max_lr=0.2, total_steps=61),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_go_their_way(name: str) -> None:
    run, optimizer, other, twin_optimizer, _ = pair()
    lrs: dict[int, list[float]] = {0: [], 1: []}
    for which, (model, each) in enumerate(((run, optimizer), (other, twin_optimizer))):
        scheduler = SCHEDULERS[name](each)
        for batch in batches(60):
            backward(model, batch)
            each.step()
            lrs[which].append(each.param_groups[0]["lr"])
            scheduler.step()
    assert lrs[0] == lrs[1]
    assert apart(run, other) < 1e-11


def test_strong_decay_under_momentum_has_a_twin_too() -> None:
    run, optimizer, other, twin_optimizer, _ = pair(weight_decay=0.5)  # lr wd = 0.05, far beyond the root's 0.0026
    train(run, optimizer, 60)
    train(other, twin_optimizer, 60)
    assert apart(run, other) < 1e-8  # the run itself multiplies errors here: its weights shrink and grow again


def test_weights_are_shortened_by_powers_of_two_and_no_bit_is_lost() -> None:
    twins: list[tuple[nn.Module, ExponentialTwin]] = []
    for limit in (8, math.inf):
        model = net()
        optimizer = SGD(groups(model), lr=0.1, momentum=0.9, weight_decay=0.05)
        twin = ExponentialTwin(optimizer, invariant(model), limit=limit)
        train(model, optimizer, 100)
        twins.append((model, twin))
    (short, limited), (long, free) = twins
    assert free.log_growth[0] > 3.0
    assert limited.log_growth == pytest.approx(free.log_growth, rel=1e-14)
    for name, w in invariant(short).items():
        ratio = (invariant(long)[name] / w).detach()
        assert ratio.unique().numel() == 1
        assert math.log2(float(ratio.max())) == limited._powers[0] > 0
    assert torch.equal(logits(short), logits(long))


def test_float32_does_not_overflow() -> None:
    model = net(dtype=torch.float32, eps=1e-5)
    optimizer = SGD(groups(model), lr=0.1, weight_decay=5.0)  # weights double in one step: 2^150 squared would overflow
    twin = ExponentialTwin(optimizer, invariant(model))
    train(model, optimizer, 150)
    assert twin.log_growth[0] > 100
    assert all(bool(p.isfinite().all()) and float(p.detach().norm()) < 1e6 for p in invariant(model).values())
    assert logits(model).isfinite().all()


def test_closing_gives_the_run_back_with_its_momentum() -> None:
    run, optimizer, other, twin_optimizer, twin = pair(trained_head=True)
    train(run, optimizer, 80, each=random_settings(optimizer))
    train(other, twin_optimizer, 80, each=random_settings(twin_optimizer))
    twin.close()
    for p, q in zip(run.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-10, atol=1e-12)
        if p.requires_grad:
            buffers = (each.state[x]["momentum_buffer"] for each, x in ((optimizer, p), (twin_optimizer, q)))
            torch.testing.assert_close(*buffers, rtol=1e-9, atol=1e-11)
    train(run, optimizer, 120, start=80)
    train(other, twin_optimizer, 120, start=80)
    assert apart(run, other) < 1e-9


def test_a_twin_may_begin_in_mid_run() -> None:
    run, other = net(), net()
    one, two = (SGD(groups(model), **SETTINGS) for model in (run, other))
    train(run, one, 50)
    train(other, two, 20)
    ExponentialTwin(two, invariant(other))
    train(other, two, 50, start=20)
    assert apart(run, other) < 1e-11


def test_a_weight_without_a_gradient_stands_still_in_both() -> None:
    run, optimizer, other, twin_optimizer, _ = pair()
    for model, each in ((run, optimizer), (other, twin_optimizer)):
        first = next(iter(invariant(model).values()))

        def frozen(index: int, first: Tensor = first) -> None:
            if index < 3 or index % 3 == 1:
                first.grad = None

        train(model, each, 60, each=frozen)
    assert apart(run, other) < 1e-11
