"""Every optimizer's steps have the wanted length, in each norm and scope, and all else is as it was."""

import copy
import inspect
import io
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS, SGD, AdamW, Optimizer, Rprop, SparseAdam

from truestep.compare.step_matched._blocks import SCOPES
from truestep.compare.step_matched._factor import NORMS
from truestep.compare.step_matched._step_matched import StepMatched
from truestep.core import Recorder, Step
from truestep.invariance import UnitSphere
from truestep.loss import guard

LENGTHS = {"l2": 0.03, "rms": 0.003, "linf": 0.005, "relative": 0.01, "angular": 0.01}
RULES = [
    kind
    for name in dir(torch.optim)
    if inspect.isclass(kind := getattr(torch.optim, name))
    and issubclass(kind, Optimizer)
    and kind not in (Optimizer, LBFGS)
]
WAYS = [
    (kind, foreach)
    for kind in RULES
    for foreach in ((True, False) if "foreach" in inspect.signature(kind).parameters else (None,))
]


class Net(nn.Module):
    """An embedding and a hidden layer, so that every kind of gradient and a zero-initialised bias are there."""

    def __init__(self, *, sparse: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 5, sparse=sparse)
        self.hidden = nn.Linear(5, 6, bias=bias)
        self.out = nn.Linear(6, 3, bias=False)
        if bias:
            nn.init.zeros_(self.hidden.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(self.words(x))))


def net(**settings: bool) -> Net:
    torch.manual_seed(3)
    return Net(**settings).double()


def backward(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randint(4, (16,), generator=generator), torch.randint(3, (16,), generator=generator)
    model.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    return loss


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for seed in steps:
        backward(model, seed)
        optimizer.step()


def built(kind: Any, *, foreach: bool | None = None, **settings: Any) -> tuple[Net, Optimizer]:
    model = net(sparse=kind is SparseAdam, bias=kind.__name__ != "Muon")
    params = list(model.words.parameters()) if kind is SparseAdam else list(model.parameters())
    settings |= {} if foreach is None else {"foreach": foreach}
    return model, kind([{"params": params[:1]}, {"params": params[1:]}] if params[1:] else params, lr=1e-3, **settings)


def rows(x: Tensor, scope: str) -> list[Tensor]:
    return list(x) if scope == "unit" and x.dim() > 1 else [x.flatten()]


def blocks(optimizer: Optimizer, scope: str) -> list[Tensor]:
    """Written another way than in the source: vectors of the blocks."""
    groups = [[p.detach() for p in group["params"]] for group in optimizer.param_groups]
    if scope == "group":
        return [torch.cat([p.flatten() for p in group]) for group in groups]
    flat = [p for group in groups for p in group]
    if scope == "global":
        return [torch.cat([p.flatten() for p in flat])]
    return [row.clone() for p in flat for row in rows(p, scope)]


def length_of(w: Tensor, now: Tensor, norm: str, floor: float) -> float:
    u = now - w
    if norm == "angular":
        a, b = w / w.norm(), now / now.norm()
        return float(2 * torch.atan2((a - b).norm(), (a + b).norm()))  # Kahan's, exact for small angles too
    size = {"l2": u.norm(), "rms": u.square().mean().sqrt(), "linf": u.abs().max()}
    return float(size.get(norm, u.norm() / max(float(w.norm()), floor * len(w) ** 0.5)))


@pytest.mark.usefixtures("unchecked")  # 500 controls: each would have its hooks' types checked anew
@pytest.mark.parametrize(("kind", "foreach"), WAYS, ids=lambda x: getattr(x, "__name__", x))
def test_each_step_of_each_rule_has_the_wanted_length_in_each_norm_and_scope(kind: Any, foreach: bool | None) -> None:
    model, optimizer = built(kind, foreach=foreach)
    unturned = 0
    for seed, (norm, scope) in enumerate(product(NORMS, SCOPES)):  # 20 steps of one run
        matched = StepMatched(optimizer, LENGTHS[norm], norm=norm, scope=scope)
        floor, before = matched.state_dict()["floor"], blocks(optimizer, scope)
        train(model, optimizer, range(seed, seed + 1))
        for w, now, own in zip(before, blocks(optimizer, scope), matched.report.kept.tolist(), strict=True):
            if not own:
                assert abs(length_of(w, now, norm, floor) / LENGTHS[norm] - 1) < 1e-5
            elif not torch.equal(w, now):
                assert norm == "angular"
                unturned += 1
        matched.close()
    assert unturned <= 2


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
    model, optimizer = built(AdamW, fused=fused, weight_decay=0.1)
    plain, other = built(AdamW, fused=fused, weight_decay=0.1)
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
    model, optimizer = built(AdamW, fused=True, weight_decay=0.1)
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


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"norm": "function"}, "`norm` must be one of 'l2', 'rms', 'linf', 'relative', 'angular', found 'function'"),
        ({"scope": "row"}, "`scope` must be one of"),
        ({"decay": "none"}, "`decay` must be one of 'in', 'out'"),
        ({"probe": lambda: None}, "`probe` must be None"),
        ({"length": -1.0}, "`length` must be a number from 0"),
        ({"length": 3.2, "norm": "angular"}, "`length` must be a number from 0 to below 3.14"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        StepMatched(SGD([torch.ones(1, requires_grad=True)]), **{"length": 0.1, **settings})


def test_lbfgs_a_second_one_and_a_kept_norm_are_refused() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="curvature pairs"):
        StepMatched(LBFGS([weight]), 0.1)
    optimizer = SGD([weight])
    first = StepMatched(optimizer, 0.1)
    with pytest.raises(ValueError, match="must have no StepMatched"):
        StepMatched(optimizer, 0.2)
    with pytest.raises(ValueError, match="must have no StepMatched"):
        UnitSphere(optimizer, {"weight": weight})
    first.close()
    StepMatched(optimizer, 0.2)


def test_rprop_s_own_step_sizes_are_left_alone() -> None:
    model, optimizer = built(Rprop)
    StepMatched(optimizer, 0.03)
    train(model, optimizer, range(1))
    assert all((state["step_size"] == 1e-3).all() for state in optimizer.state.values())
