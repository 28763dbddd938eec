"""The lengths are those of another optimizer's steps from the same weights, and it leaves no other trace."""

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
    length_of,
    output_length,
    outputs,
    probe,
    train,
)
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from truestep.compare.step_matched._blocks import SCOPES
from truestep.compare.step_matched._factor import NORMS
from truestep.compare.step_matched._reference import Reference
from truestep.compare.step_matched._step_matched import StepMatched
from truestep.loss import guard


def same_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Groups of the same weights, for another optimizer."""
    return [{"params": list(group["params"])} for group in optimizer.param_groups]


def grafted(rule: Any = SGD, way: str = "plain", **settings: Any) -> tuple[Net, Optimizer, Adam, StepMatched]:
    model, optimizer = built(rule, way)
    reference = Adam(same_groups(optimizer), lr=0.01)
    return model, optimizer, reference, StepMatched(optimizer, reference, **settings)


def state_of(optimizer: Optimizer) -> list[torch.Tensor]:
    return [x for state in optimizer.state.values() for x in state.values()]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("norm", NORMS)
def test_each_step_is_as_long_as_the_other_would_be_from_the_same_weights(norm: Any, scope: Any) -> None:
    model, optimizer, reference, matched = grafted(norm=norm, scope=scope)
    floor = matched.state_dict()["floor"]
    twin = copy.deepcopy(model)
    alone = Adam([{"params": [*twin.parameters()][:1]}, {"params": [*twin.parameters()][1:]}], lr=0.01)
    for seed in range(3):
        twin.load_state_dict(model.state_dict())
        before = blocks(optimizer, scope)
        train(model, optimizer, range(seed, seed + 1))
        train(twin, alone, range(seed, seed + 1))
        for w, now, its, own in zip(
            before, blocks(optimizer, scope), blocks(alone, scope), matched.report.kept, strict=True
        ):
            if not own:
                assert length_of(w, now, norm, floor) == pytest.approx(length_of(w, its, norm, floor), rel=1e-6)
    assert matched.report.kept.sum() <= 1  # the bias that is zero has no angle
    assert all(map(torch.equal, state_of(reference), state_of(alone)))


def test_it_is_as_long_in_the_outputs() -> None:
    model, optimizer = built(SGD)
    matched = StepMatched(optimizer, Adam(model.parameters(), lr=0.01), norm="function", probe=probe(model))
    twin = copy.deepcopy(model)
    start = {name: x.detach() for name, x in outputs(model).items()}
    train(model, optimizer, range(1))
    train(twin, Adam(twin.parameters(), lr=0.01), range(1))
    assert output_length(start, model) == pytest.approx(output_length(start, twin), rel=1e-5)
    assert matched.report.wanted.item() == pytest.approx(output_length(start, twin), rel=1e-12)


def test_sgd_at_the_lengths_of_sgd_is_that_sgd() -> None:
    model, optimizer = built(SGD)
    twin, other = built(SGD)
    StepMatched(optimizer, SGD(model.parameters(), lr=0.3), norm="rms", scope="tensor")
    for group in other.param_groups:
        group["lr"] = 0.3
    train(model, optimizer, range(10))
    train(twin, other, range(10))
    for x, y in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


def test_weights_that_the_optimizer_does_not_move_are_put_back_bit_by_bit() -> None:
    model, optimizer, _, matched = grafted()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = blocks(optimizer, "global")[0]
    train(model, optimizer, range(3))
    assert torch.equal(blocks(optimizer, "global")[0], before)
    assert matched.report.kept_steps.tolist() == [3]


@pytest.mark.parametrize("rule", ["optimizer", "reference"])
def test_a_rule_that_writes_into_the_gradient_disturbs_nobody(rule: str) -> None:
    lengths, writes = [], {"momentum": 0.9, "nesterov": True}
    for foreach in (False, True):  # nesterov with foreach writes into .grad
        model, _ = built(SGD)
        settings: Any = {"foreach": foreach, **writes}
        optimizer = SGD(model.parameters(), lr=0.1, **(settings if rule == "optimizer" else {}))
        reference = SGD(model.parameters(), lr=0.2, **(settings if rule == "reference" else {"momentum": 0.5}))
        matched = StepMatched(optimizer, reference)
        for seed in range(4):
            backward(model, seed)
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            optimizer.step()
            if rule == "reference":
                grads = [p.grad for p in model.parameters() if p.grad is not None]
                assert all(map(torch.equal, gradients, grads))
        lengths.append(matched.report.took)
    torch.testing.assert_close(*lengths, rtol=1e-12, atol=0)


def test_its_lr_can_be_scheduled() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer, reference = SGD([weight], lr=9.0), SGD([weight], lr=1.0)
    matched = StepMatched(optimizer, reference)
    scheduler = LambdaLR(reference, lambda step: 0.5**step)
    took = []
    for _ in range(3):
        weight.grad = torch.tensor([3.0, 4.0])
        optimizer.step()
        scheduler.step()
        took.append(matched.report.took.item())
    assert took == [5.0, 2.5, 1.25]


@pytest.mark.parametrize("way", ["plain", "fused"])
def test_a_skipped_step_is_skipped_by_both(way: str) -> None:
    model, optimizer, reference, matched = grafted(AdamW, way)
    twin, other, alone, _ = grafted(AdamW, way)
    guard(optimizer)
    train(model, optimizer, range(2))
    train(twin, other, range(2))
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    optimizer.step()
    assert all(map(torch.equal, state_of(reference), state_of(alone)))
    train(model, optimizer, range(2, 4))
    train(twin, other, range(2, 4))
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    assert matched.report.steps == 4


def test_a_gradient_that_is_still_scaled_is_given_without_its_scale() -> None:
    model, optimizer, reference, _ = grafted(AdamW, "fused")
    twin, other, alone, _ = grafted(AdamW, "fused")
    for seed in range(3):
        backward(model, seed)
        for p in model.parameters():
            p.grad = None if p.grad is None else p.grad * 1024
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.zeros(())  # type: ignore[attr-defined]
        optimizer.step()
        train(twin, other, range(seed, seed + 1))
    assert all(map(torch.equal, state_of(reference), state_of(alone)))
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_a_closure_is_evaluated_once_and_its_gradient_is_both_s() -> None:
    model, optimizer, reference, _ = grafted()
    twin, other, alone, _ = grafted()
    times: list[int] = []

    def closure() -> Any:
        times.append(len(times))
        return backward(twin, times[-1])

    for seed in range(3):
        train(model, optimizer, range(seed, seed + 1))
        other.step(closure)
    assert times == [0, 1, 2]
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    assert all(map(torch.equal, state_of(reference), state_of(alone)))


@pytest.mark.parametrize("decay", ["in", "out"])
def test_its_decay_is_in_its_length_or_out_of_it(decay: Any) -> None:
    weight = nn.Parameter(torch.tensor([3.0, 0.0], dtype=torch.float64))
    optimizer, reference = SGD([weight], lr=1.0), SGD([weight], lr=0.5, weight_decay=1.0)
    StepMatched(optimizer, reference, decay=decay)
    weight.grad = torch.tensor([0.0, -4.0], dtype=torch.float64)
    optimizer.step()  # the reference: (-1.5, 2)
    assert float(weight.detach()[1]) == pytest.approx(2.5 if decay == "in" else 2.0, rel=1e-14)
    assert reference.param_groups[0]["weight_decay"] == 1.0


@pytest.mark.parametrize("norm", ["l2", "function"])
def test_a_resumed_run_goes_on_bit_for_bit(norm: Any) -> None:
    def start() -> tuple[Net, Optimizer, StepMatched]:
        model, optimizer = built(SGD, momentum=0.9)
        reference = AdamW(same_groups(optimizer), lr=0.01)
        return (
            model,
            optimizer,
            StepMatched(optimizer, reference, norm=norm, probe=None if norm == "l2" else probe(model)),
        )

    model, optimizer, matched = start()
    train(model, optimizer, range(4))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), matched.state_dict()], file)
    train(model, optimizer, range(4, 8))
    again, resumed, new = start()
    for part, state in zip((again, resumed, new), torch.load(io.BytesIO(file.getvalue())), strict=True):
        part.load_state_dict(state)
    train(again, resumed, range(4, 8))
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert torch.equal(matched.report.took, new.report.took)
    plain = StepMatched(built(SGD)[1], 0.1).state_dict()
    with pytest.raises(ValueError, match="must hold the state of the optimizer that is the `length`"):
        new.load_state_dict(plain)


def test_a_reference_that_fails_leaves_weights_and_gradients_as_they_were() -> None:
    weight = nn.Parameter(torch.ones(2))
    reference = Reference(failing := SGD([weight], lr=1.0), SGD([weight], lr=1.0), decay_out=False)
    failing.register_step_post_hook(lambda *_: 1 / 0)
    weight.grad = grad = torch.ones(2)
    reference.begin([weight])
    reference.ready()
    with pytest.raises(ZeroDivisionError), reference.stepped([torch.zeros(2)], None):
        pass
    assert weight.tolist() == [1.0, 1.0]
    assert weight.grad is grad


def test_it_must_have_the_same_weights_and_need_no_closure() -> None:
    weight, more = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SGD([weight], lr=0.1)
    with pytest.raises(ValueError, match="found the optimizer itself"):
        StepMatched(optimizer, optimizer)
    with pytest.raises(ValueError, match="found LBFGS"):
        StepMatched(optimizer, LBFGS([weight]))
    with pytest.raises(ValueError, match="found one that lacks 1 of them"):
        StepMatched(optimizer, SGD([more]))
    with pytest.raises(ValueError, match="found one that has 1 more"):
        StepMatched(optimizer, SGD([weight, more]))
    StepMatched(optimizer, SGD([weight]))
    optimizer.add_param_group({"params": [more]})
    with pytest.raises(ValueError, match="give both a group that is added later"):
        optimizer.step()
