"""Every optimizer's steps have the wanted length, in each norm and scope, and all else is as it was."""

import copy
import io
from typing import Any

import pytest
import torch
from tests.compare.step_matched.nets import (
    Net,
    backward,
    blocks,
    built,
    train,
)
from torch import nn
from torch.optim import SGD, AdamW, Optimizer, Rprop

from truestep.compare.step_matched._blocks import SCOPES
from truestep.compare.step_matched._factor import NORMS
from truestep.compare.step_matched._step_matched import StepMatched
from truestep.conditioning import GradientCentering
from truestep.core import Recorder, Step
from truestep.invariance import HoldEffectiveLR, UnitSphere, rescale
from truestep.loss import guard


def test_the_direction_is_the_optimizer_s() -> None:
    model, optimizer = built(AdamW)
    free = copy.deepcopy(model)
    other = AdamW(free.parameters(), lr=1e-3)
    StepMatched(optimizer, 0.03)
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    train(model, optimizer, range(1))
    train(free, other, range(1))
    ends = [torch.cat([p.detach().flatten() for p in net.parameters()]) - start for net in (model, free)]
    torch.testing.assert_close(torch.dot(*ends) / (ends[0].norm() * ends[1].norm()), torch.ones(()).double())


def test_lr_no_longer_matters_where_it_scales_the_step_alone() -> None:
    ends = []
    for lr in (1e-4, 10.0):
        model, optimizer = built(SGD, momentum=0.9)
        for group in optimizer.param_groups:
            group["lr"] = lr
        StepMatched(optimizer, lambda step: 0.1 / (1 + step))
        train(model, optimizer, range(20))
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-11)


def test_decay_out_is_adamw_with_its_update_matched_and_its_decay_as_it_was() -> None:
    model, optimizer = built(AdamW, weight_decay=0.3)
    plain, other = built(AdamW, weight_decay=0.0)
    StepMatched(optimizer, 0.03, decay="out")
    StepMatched(other, 0.03)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, range(1))
    train(plain, other, range(1))
    for w, x, y in zip(before, model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(x, y - 1e-3 * 0.3 * w, rtol=0, atol=1e-15)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3]


def test_decay_in_is_part_of_the_step_and_weights_without_gradient_do_not_decay_out() -> None:
    weight, idle = (nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64)) for _ in range(2))
    optimizer = SGD([weight, idle], lr=0.5, weight_decay=0.5)
    matched = StepMatched(optimizer, 1.0)
    weight.grad = torch.tensor([0.0, -0.5], dtype=torch.float64)
    optimizer.step()  # u = (-0.25, 0.25)
    torch.testing.assert_close(weight.data, torch.tensor([1 - 0.5**0.5, 0.5**0.5], dtype=torch.float64))
    matched.close()
    StepMatched(optimizer, 1.0, decay="out")
    before = weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(weight.data, 0.75 * before + torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert idle.tolist() == [1.0, 0.0]


def test_blocks_that_do_not_move_or_cannot_turn_keep_their_step_and_are_reported() -> None:
    still, radial, free = (nn.Parameter(torch.tensor([1.0, 0.0])) for _ in range(3))
    optimizer = SGD([("still", still), ("radial", radial), ("free", free)], lr=0.5)
    matched = StepMatched(optimizer, 0.1, norm="angular", scope="tensor")
    assert matched.report.wanted.isnan().all()
    for p, grad in ((still, [0.0, 0.0]), (radial, [1.0, 0.0]), (free, [0.0, 1.0])):
        p.grad = torch.tensor(grad)
    optimizer.step()
    assert still.tolist() == [1.0, 0.0]
    assert radial.tolist() == [0.5, 0.0]
    assert float(torch.atan2(-free.detach()[1], free.detach()[0])) == pytest.approx(0.1, rel=1e-6)
    assert matched.report.unmatched == {"still": 0.0, "radial": 0.0}
    assert matched.report.kept_steps.tolist() == [1, 1, 0]


def test_a_zero_bias_moves_by_the_floor_s_share_in_the_relative_norm() -> None:
    model, optimizer = built(SGD)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    floor = 0.1 * float(weights.square().mean().sqrt())
    StepMatched(optimizer, 0.5, norm="relative", scope="tensor")
    train(model, optimizer, range(1))
    assert float(model.hidden.bias.detach().norm()) == pytest.approx(0.5 * floor * 6**0.5, rel=1e-12)


def test_all_weights_zero_have_the_floor_of_a_tenth() -> None:
    weight = nn.Parameter(torch.zeros(4))
    optimizer = SGD([weight])
    StepMatched(optimizer, 0.5, norm="relative")
    weight.grad = torch.ones(4)
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.full((4,), -0.05))


@pytest.mark.parametrize("norm", NORMS)
def test_a_closure_s_step_is_the_one_without(norm: Any) -> None:
    model, optimizer = built(AdamW)
    twin, other = built(AdamW)
    StepMatched(optimizer, 0.01, norm=norm)
    StepMatched(other, 0.01, norm=norm)
    for seed in range(3):
        backward(model, seed)
        optimizer.step()
        other.step(lambda seed=seed: backward(twin, seed))
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("decay", ["in", "out"])
def test_a_skipped_step_changes_no_bit_and_takes_no_length(fused: bool, decay: Any) -> None:
    model, optimizer = built(AdamW, "fused" if fused else "plain", weight_decay=0.1)
    plain, other = built(AdamW, "fused" if fused else "plain", weight_decay=0.1)
    schedule = [0.1 / (1 + t) for t in range(6)]
    matched, reference = StepMatched(optimizer, schedule, decay=decay), StepMatched(other, schedule, decay=decay)
    skips = guard(optimizer)
    train(plain, other, range(6))
    train(model, optimizer, range(3))
    before = copy.deepcopy([*model.parameters()])
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    optimizer.step()
    assert skips.skipped == 1
    assert matched.report.steps == 3
    assert not matched.report.kept.any()
    assert all(map(torch.equal, model.parameters(), before))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1]
    train(model, optimizer, range(3, 6))
    assert all(map(torch.equal, model.parameters(), plain.parameters()))
    assert matched.report.steps == reference.report.steps == 6


@pytest.mark.gpu
@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_waits_for_the_device_which_counts_the_steps_it_skips(scope: Any) -> None:
    weight = nn.Parameter(torch.ones(4, 3, device="cuda"))
    optimizer = AdamW([weight], fused=True, weight_decay=0.1)
    matched = StepMatched(optimizer, lambda step: 0.1 / (1 + step), scope=scope, decay="out")
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    flags = [torch.tensor(flag, device="cuda") for flag in (1.0, 0.0)]
    before = weight.detach().clone()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.found_inf = flags[0]
        optimizer.step()
        skipped = weight.detach().clone()
        optimizer.found_inf = flags[1]
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(skipped, before)
    report = matched.report
    assert report.steps == 2
    torch.testing.assert_close(report.took, torch.full_like(report.took, 0.05))
    moved = weight.detach().double() - (1 - 1e-3 * 0.1) * before.double()
    if scope != "unit":
        assert float(moved.norm()) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_where_only_the_device_knows_of_a_skip_the_count_is_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = built(AdamW, "fused", weight_decay=0.1)
    matched = StepMatched(optimizer, lambda step: 0.1 / (1 + step), decay="out")
    monkeypatch.setattr(matched, "_is_known", lambda _: False)
    for seed, flag in enumerate((0.0, 1.0, 0.0)):
        before = blocks(optimizer, "global")[0]
        optimizer.found_inf = torch.tensor(flag)
        train(model, optimizer, range(seed, seed + 1))
        took = float((blocks(optimizer, "global")[0] - (1 - (1 - flag) * 1e-3 * 0.1) * before).norm())
        assert took == pytest.approx((0.1, 0.0, 0.05)[seed], rel=1e-12)
    assert matched.report.steps == 2
    assert matched.report.took.tolist() == [0.05]


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    def start(scale: float = 1.0) -> tuple[Net, Optimizer, StepMatched]:
        model, optimizer = built(AdamW)
        model.requires_grad_(requires_grad=False)
        for p in model.parameters():
            p.mul_(scale)
        model.requires_grad_()
        schedule = [0.02 / (1 + t) for t in range(20)]
        return model, optimizer, StepMatched(optimizer, schedule, norm="relative", scope="tensor")

    model, optimizer, matched = start()
    train(model, optimizer, range(10))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), matched.state_dict()], file)
    train(model, optimizer, range(10, 20))
    again, resumed, new = start(2.0)  # attached to weights of another size: the floor must be the first run's
    for part, state in zip((again, resumed, new), torch.load(io.BytesIO(file.getvalue())), strict=True):
        part.load_state_dict(state)
    train(again, resumed, range(10, 20))
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert torch.equal(matched.report.kept_steps, new.report.kept_steps)
    assert matched.report.steps == new.report.steps == 20
    with pytest.raises(ValueError, match="must be of 1 blocks"):
        StepMatched(built(SGD)[1], 0.1).load_state_dict(new.state_dict())


def test_a_recorder_that_came_first_sees_the_matched_step() -> None:
    model, optimizer = built(AdamW)
    steps: list[Step] = []
    recorder = Recorder(dict(model.named_parameters()), optimizer, steps.append)
    StepMatched(optimizer, 0.03)
    train(model, optimizer, range(2))
    recorder.close()
    assert [float(step.took.sum().step_norm) for step in steps] == pytest.approx([0.03, 0.03], rel=1e-12)


def test_lengths_replayed_from_a_report_are_those_of_the_other_run() -> None:
    model, optimizer = built(AdamW)
    leader = StepMatched(optimizer, 0.01, norm="relative", scope="tensor")
    lengths = []
    for seed in range(3):
        train(model, optimizer, range(seed, seed + 1))
        lengths.append(leader.report.took * torch.tensor([1.0, 2.0, 3.0, 4.0]))
    model, optimizer = built(SGD)
    follower = StepMatched(optimizer, lengths, norm="relative", scope="tensor")
    train(model, optimizer, range(3))
    torch.testing.assert_close(follower.report.took, torch.tensor([0.01, 0.02, 0.03, 0.04], dtype=torch.float64))
    with pytest.raises(ValueError, match="found 3 and a step more"):
        train(model, optimizer, range(1))


@pytest.mark.parametrize("decay", ["in", "out"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_length_of_a_weight_of_16_bits_is_the_one_it_took_and_a_lost_step_is_reported(
    dtype: torch.dtype, decay: Any
) -> None:
    weight = nn.Parameter(torch.ones(200, dtype=dtype))
    optimizer = SGD([weight], lr=0.1, weight_decay=0.125)
    matched = StepMatched(optimizer, 0.25, norm="linf", decay=decay)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    share = 0.0125 if decay == "out" else 0.0
    took = float((1 - share - weight.detach().double()).abs().max())
    assert matched.report.took.item() == pytest.approx(took, rel=1e-12)
    assert matched.report.unmatched == {}
    matched.close()
    before = weight.detach().clone()
    matched = StepMatched(optimizer, 1e-5, norm="linf", decay="in")
    optimizer.step()
    assert torch.equal(weight.detach(), before)
    assert matched.report.unmatched == {"all": 0.0}


def test_a_closure_that_fails_leaves_the_decay_where_it_was() -> None:
    optimizer = SGD([weight := nn.Parameter(torch.ones(2))], lr=0.1, weight_decay=0.1)
    StepMatched(optimizer, 0.1, decay="out")
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)  # as Ctrl-C in a forward, behind which a trainer saves a checkpoint
    assert optimizer.state_dict()["param_groups"][0]["weight_decay"] == 0.1
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer.step(lambda: 1.0)
    torch.testing.assert_close(weight.data, 0.99 - torch.tensor([0.06, 0.08]))
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_s_skipped_step_is_none_for_schedule_reference_and_decay(fused: bool) -> None:
    model = nn.Linear(4, 2)
    optimizer = AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=fused)
    reference = AdamW(model.parameters(), lr=0.02, weight_decay=0.1, fused=fused)
    matched = StepMatched(optimizer, reference, decay="out")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step, factor in enumerate((1.0, torch.inf, 1.0)):
        optimizer.zero_grad()
        scaler.scale(factor * model(torch.ones(3, 4)).square().sum()).backward()
        before = model.weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model.weight, before) is (step == 1)
    assert matched.report.steps == 2
    assert {int(state["step"]) for state in reference.state.values()} == {2}
    assert optimizer.param_groups[0]["weight_decay"] == reference.param_groups[0]["weight_decay"] == 0.1


def test_a_group_that_is_added_is_matched_from_then_on() -> None:
    model, optimizer = built(SGD)
    matched = StepMatched(optimizer, 0.03, scope="group")
    train(model, optimizer, range(1))
    weight = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [weight]})
    weight.grad = torch.ones(2)
    optimizer.step()
    assert float((weight.detach() - 1).norm()) == pytest.approx(0.03, rel=1e-5)
    assert matched.report.names == ("group 0", "group 1", "group 2")


def test_closed_the_steps_are_the_optimizer_s_own() -> None:
    model, optimizer = built(SGD)
    twin, other = built(SGD)
    StepMatched(optimizer, 0.03, decay="out").close()
    train(model, optimizer, range(3))
    train(twin, other, range(3))
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_beside_a_control_of_the_step_the_norms_or_the_lr_it_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    named = {"weight": weight}
    optimizer = SGD([weight])
    first = StepMatched(optimizer, 0.1)
    with pytest.raises(ValueError, match=r"must have no StepMatched .* both set their step"):
        StepMatched(optimizer, 0.2)
    with pytest.raises(ValueError, match=r"must have no StepMatched .* norms that are set change a step"):
        UnitSphere(optimizer, named)
    with pytest.raises(ValueError, match=r"must have no StepMatched"):
        rescale(optimizer, named, 2.0)
    first.close()
    held = HoldEffectiveLR(optimizer, named, 0.1)
    with pytest.raises(ValueError, match=r"must have no HoldEffectiveLR .* an lr has no effect on a step whose length"):
        StepMatched(optimizer, 0.2)
    held.close()
    StepMatched(optimizer, 0.2)


def test_beside_a_gradient_transform_and_a_guard_the_step_is_theirs_at_the_wanted_length() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    optimizer = SGD(model.parameters(), lr=1.0)
    x, before = torch.randn(5, 3).double() + 4, copy.deepcopy(model)
    StepMatched(optimizer, 0.1)
    GradientCentering(model, optimizer)
    guard(optimizer)
    model(x).square().mean().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    u = [p.detach() - w.detach() for p, w in zip(model.parameters(), before.parameters(), strict=True)]
    centred = gradients[0] - torch.outer(gradients[1], x.mean(0))
    expected = [centred, gradients[1] - centred @ x.mean(0)]
    size = sum(float(x.square().sum()) for x in expected) ** 0.5
    torch.testing.assert_close(u, [-0.1 / size * x for x in expected], rtol=1e-9, atol=1e-12)


def test_rprop_s_own_step_sizes_are_left_alone() -> None:
    model, optimizer = built(Rprop)
    StepMatched(optimizer, 0.03)
    train(model, optimizer, range(1))
    assert all((state["step_size"] == 1e-3).all() for state in optimizer.state.values())
