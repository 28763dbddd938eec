"""The twin in a real run: skipped, failed and resumed steps, what others see, and what is refused."""

import copy
import io
import math
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
from tests.invariance.controls.twins import SETTINGS, pair
from torch.optim import SGD, AdamW

from truestep.core import Recorder
from truestep.invariance.controls._exponential_twin import ExponentialTwin
from truestep.loss import guard


@pytest.mark.parametrize("tensor", [False, True])
def test_a_skipped_step_advances_nothing(tensor: bool) -> None:
    _, _, model, optimizer, twin = pair(fused=True)
    if tensor:
        optimizer.param_groups[0]["lr"] = torch.tensor(0.1, dtype=torch.float64)
    train(model, optimizer, 5)
    before = copy.deepcopy((twin.state_dict(), [*model.parameters()], optimizer.state_dict()["state"]))
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    after = twin.state_dict(), [*model.parameters()], optimizer.state_dict()["state"]
    assert after[0] == before[0]
    assert all(map(torch.equal, after[1], before[1]))
    assert all(torch.equal(after[2][i]["momentum_buffer"], s["momentum_buffer"]) for i, s in before[2].items())
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert twin.state_dict() != before[0]


@pytest.mark.parametrize("first", ["guard", "twin"])
def test_steps_that_a_guard_skips_are_no_steps_of_the_twin(first: str) -> None:
    run, optimizer, model, guarded, twin = pair()
    twin.close()
    attach = {"guard": lambda: guard(guarded), "twin": lambda: ExponentialTwin(guarded, invariant(model))}
    kept = {name: attach[name]() for name in sorted(attach, key=lambda name: name != first)}

    def spoil(index: int) -> None:
        if index % 4 in (0, 3):
            next(iter(invariant(model).values())).grad.fill_(torch.nan)

    taken = [index for index in range(40) if index % 4 not in (0, 3)]
    for index, batch in enumerate(batches(40)):
        if index in taken:
            backward(run, batch)
            optimizer.step()
    train(model, guarded, 40, each=spoil)
    assert kept["guard"].skipped == 20
    torch.testing.assert_close(logits(model), logits(run), rtol=0, atol=1e-11)


@pytest.mark.parametrize("tensor", [False, True])
def test_a_resumed_twin_goes_on_bit_for_bit(tensor: bool) -> None:
    _, _, model, optimizer, twin = pair(trained_head=True, limit=2)
    each = random_settings(optimizer, tensor=tensor)
    train(model, optimizer, 30, each=each)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), twin.state_dict()], file)
    train(model, optimizer, 60, start=30, each=each)
    _, _, again, resumed, new = pair(trained_head=True, lr=7.0, limit=2)
    file.seek(0)
    for part, state in zip((again, resumed, new), torch.load(file), strict=True):
        part.load_state_dict(state)
    train(again, resumed, 60, start=30, each=random_settings(resumed, tensor=tensor))
    assert all(map(torch.equal, again.parameters(), model.parameters()))
    assert new.state_dict() == twin.state_dict()


def test_the_growth_counts_what_was_shortened_before_the_run_was_resumed() -> None:
    *_, twin = pair()
    twin.load_state_dict({"frames": [(0.25, 0.1)], "powers": [9]})
    assert twin.log_growth == pytest.approx([11 * math.log(2)], rel=1e-14)
    assert twin.state_dict() == {"frames": [(0.25, 0.1)], "powers": [9]}


def test_others_see_the_user_s_settings_and_the_step_as_it_was() -> None:
    _, _, model, optimizer, twin = pair(weight_decay=0.025)
    twin.close()
    seen: list[tuple[float, float]] = []
    steps: list[Any] = []

    def look(*_: Any) -> None:
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]))

    optimizer.register_step_pre_hook(look)
    optimizer.register_step_post_hook(look)
    recorder = Recorder(invariant(model), optimizer, steps.append)
    twin = ExponentialTwin(optimizer, invariant(model), limit=2)
    train(model, optimizer, 60)
    assert set(seen) == {(0.1, 0.025)}
    assert all(float((step.took.dd / step.took.ww).max()) < 0.2 for step in steps)  # halving would be 0.25
    assert twin._powers[0] > 0
    recorder.close()


def test_settings_are_put_back_after_a_step_that_failed() -> None:
    _, _, model, optimizer, twin = pair()

    def fails() -> Any:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        optimizer.step(fails)
    state = twin.state_dict()
    optimizer.step(lambda: backward(model, next(batches(1))))
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.1, 0.01)
    assert twin.state_dict() != state


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nesterov": True}, "nesterov"),
        ({"dampening": 0.1}, "dampening"),
    ],
)
def test_rules_without_a_twin_are_refused(settings: dict[str, Any], words: str) -> None:
    model = net()
    with pytest.raises(ValueError, match=f"`optimizer` must not use {words} in group 0"):
        ExponentialTwin(SGD(groups(model), **SETTINGS, **settings), invariant(model))


def test_nesterov_has_no_twin() -> None:
    run, optimizer, other, twin_optimizer, _ = pair()
    optimizer.param_groups[0]["nesterov"] = True
    train(run, optimizer, 60)
    twin_optimizer.param_groups[0]["nesterov"] = True
    ExponentialTwin._check, check = lambda *_: None, ExponentialTwin._check  # what it would do if it were let
    try:
        train(other, twin_optimizer, 60)
    finally:
        ExponentialTwin._check = check
    assert apart(run, other) > 1e-3


def test_other_optimizers_and_mixed_groups_are_refused() -> None:
    model = net(trained_head=True)
    with pytest.raises(ValueError, match=r"`optimizer` must be torch\.optim\.SGD, found AdamW"):
        ExponentialTwin(AdamW(groups(model)), invariant(model))
    with pytest.raises(ValueError, match="group 0 holds 6 other tensors too"):
        ExponentialTwin(SGD(model.parameters(), lr=0.1), invariant(model))
    with pytest.raises(ValueError, match="`limit` must be 2 or more, found 1"):
        ExponentialTwin(SGD(groups(model), lr=0.1), invariant(model), limit=1)


def test_a_decay_that_turns_the_weight_round_is_refused() -> None:
    model = net()
    optimizer = SGD(groups(model), lr=1.0, momentum=0.9, weight_decay=1.0)
    ExponentialTwin(optimizer, invariant(model))
    with pytest.raises(ValueError, match="`lr` x `weight_decay` must stay below 1"):
        train(model, optimizer, 1)
    assert optimizer.param_groups[0]["weight_decay"] == 1.0
    optimizer = SGD(groups(model), lr=torch.tensor(1.5), weight_decay=1.0)  # round and round again
    ExponentialTwin(optimizer, invariant(model))
    with pytest.raises(ValueError, match="`lr` x `weight_decay` must stay below 1"):
        train(model, optimizer, 1)


def test_momentum_switched_on_in_mid_run_is_refused() -> None:
    _, _, model, optimizer, _ = pair(momentum=0.0)
    train(model, optimizer, 2)
    optimizer.param_groups[0]["momentum"] = 0.9
    with pytest.raises(ValueError, match="`momentum` of group 0 must not change from or to 0"):
        train(model, optimizer, 1)


def test_a_state_of_other_groups_is_refused() -> None:
    *_, twin = pair()
    with pytest.raises(ValueError, match="`state` must be of 1 parameter groups, found 2"):
        twin.load_state_dict({"frames": [(1.0, 0.0)] * 2, "powers": [0, 0]})
