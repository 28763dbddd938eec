"""After a window was tried out everything is as before, to the bit, also where the loop failed."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.loss.accumulation.loops import Tokens, each, mean, mlp, window
from torch import Tensor, nn

from truestep.loss.accumulation._accumulation import check_accumulation
from truestep.loss.accumulation._window import preserved, quiet, taken


def state(model: nn.Module) -> dict[str, Any]:
    """All that a check could leave changed."""
    return {
        "values": {name: x.clone() for name, x in model.state_dict().items()},
        "places": [x.data_ptr() for x in (*model.parameters(), *model.buffers())],
        "objects": [id(x) for x in (*model.parameters(), *model.buffers())],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "own": [sorted(vars(module)) for module in model.modules()],
        "rates": [getattr(module, "p", getattr(module, "dropout", None)) for module in model.modules()],
        "trained": [p.requires_grad for p in model.parameters()],
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 (the state that users draw from)
        "torch": torch.get_rng_state(),
    }


def assert_same(before: Any, after: Any, where: str = "state") -> None:
    assert type(before) is type(after), where
    if isinstance(before, dict):
        assert list(before) == list(after)
        for key in before:
            assert_same(before[key], after[key], f"{where}.{key}")
    elif isinstance(before, (list, tuple)):
        assert len(before) == len(after)
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            assert_same(one, other, f"{where}[{i}]")
    elif isinstance(before, Tensor):
        assert before.dtype == after.dtype
        assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0)), where
    elif isinstance(before, np.ndarray):
        assert (before == after).all(), where
    else:
        assert before == after, where


def used() -> nn.Sequential:
    """A model in the midst of training: some gradients, some modules in eval mode, one parameter frozen."""
    model = mlp(norm=nn.BatchNorm1d).train()
    for batch in window(4, 4):
        mean(model, batch).backward()
    model[0].bias.grad = None
    model[4].weight.requires_grad_(False)
    model[3].eval()
    model[1].weight.data[0] = torch.nan
    return model


class StoppedError(Exception):
    pass


def drawing(model: Any, batches: Sequence[Any]) -> None:
    """A loop that changes whatever a loop may change."""
    random.random()
    np.random.rand()  # noqa: NPY002
    torch.rand(1)
    model.train()
    model.zero_grad(set_to_none=False)
    each(mean)(model, batches)
    model[1].running_mean = model[1].running_mean.clone() + 1.0


def failing(model: Any, batches: Sequence[Any]) -> None:
    drawing(model, batches)
    raise StoppedError


@pytest.mark.parametrize("loop", [None, drawing], ids=["recipe", "loop"])
def test_a_check_leaves_no_trace(loop: Callable[..., None] | None) -> None:
    model, batches = used(), window(4, 4, 4)
    before = state(model)
    check_accumulation(model, mean, batches, loop)
    assert_same(before, state(model))


def test_a_loop_that_fails_leaves_no_trace() -> None:
    model, batches = used(), window(4, 4, 4)
    before = state(model)
    with pytest.raises(StoppedError):
        check_accumulation(model, mean, batches, failing)
    assert_same(before, state(model))


def test_a_trace_would_be_seen() -> None:
    model = used()
    before = state(model)
    model[1].running_mean += 1e-12
    with pytest.raises(AssertionError, match=r"state\.values"):
        assert_same(before, state(model))


@pytest.mark.parametrize("quietly", [False, True], ids=["optimizer", "through data"])
def test_a_loop_that_steps_is_refused_and_the_weights_are_put_back(quietly: bool) -> None:
    model, batches = mlp(), window(4, 4)
    before = state(model)

    def stepping(model: Any, batches: Sequence[Any]) -> None:
        each(mean)(model, batches)
        if not quietly:
            torch.optim.SGD(model.parameters(), lr=0.1).step()
        for p in model.parameters() if quietly else ():
            p.data.sub_(p.grad)  # leaves no trace in the tensor's version

    with pytest.raises(ValueError, match=r"must end before `optimizer.step\(\)`"):
        check_accumulation(model, mean, batches, stepping)
    assert_same(before, state(model))


def drifting(model: Any, batches: Sequence[Any]) -> None:
    for batch in batches:
        batch["x"].add_(0.1)
    each(mean, lambda k: 1 / k)(model, batches)


def centred(model: Any, batch: Any) -> Tensor:
    batch["x"].sub_(batch["x"].mean(1, keepdim=True))
    batch["scale"].mul_(2.0)  # of no item: it is the same tensor in the union
    return mean(model, batch) * batch["scale"]


def test_a_loop_that_writes_into_its_batches_leaves_them_as_they_were_and_meets_them_so_in_each_run() -> None:
    batches = window(4, 4, 4)
    before = [batch["x"].clone() for batch in batches]
    check = check_accumulation(mlp(), mean, batches, drifting)
    assert check.floor == 0.0
    assert not check.ok
    assert_same(before, [batch["x"] for batch in batches])


def test_a_loss_fn_that_writes_into_its_batches_is_judged_by_what_it_was_given() -> None:
    scale = torch.tensor(1.0)
    batches = [{**batch, "scale": scale} for batch in window(4, 4, 4)]
    before = [batch["x"].clone() for batch in batches]
    assert check_accumulation(mlp(), centred, batches).ok
    assert_same(before, [batch["x"] for batch in batches])
    assert float(scale) == 1.0


def test_the_caller_s_gradients_do_not_enter_the_check() -> None:
    model, batches = mlp(), window(4, 4)
    clean = check_accumulation(model, mean, batches)
    model[0].weight.grad = torch.full_like(model[0].weight, 1e6)
    assert check_accumulation(model, mean, batches).relative_error == clean.relative_error


def test_everything_but_batch_norm_is_held_in_eval_mode_whatever_the_loop_calls() -> None:
    model = mlp(norm=nn.BatchNorm1d).train()
    with quiet(model):
        model.train()
        assert [type(module).__name__ for module in model.modules() if module.training] == ["BatchNorm1d"]
    with quiet(model, frozen=True):
        assert model.train() is model
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())
    with quiet(model.eval()):
        assert not any(module.training for module in model.modules())


def test_a_recurrent_layer_keeps_its_mode_without_its_dropout() -> None:
    model = Tokens().train()
    with quiet(model):
        assert (model.reads.training, model.reads.dropout, model.words.training) == (True, 0.0, False)
    assert (model.reads.training, model.reads.dropout) == (True, 0.5)


def test_gradients_are_taken_away_by_name() -> None:
    model = nn.Linear(2, 1)
    model.weight.grad = given = torch.ones(1, 2)
    found = taken(model)
    assert list(found) == ["weight"]
    assert torch.equal(found["weight"], given)
    assert model.weight.grad is None
    assert taken(model) == {}


def test_a_buffer_that_was_replaced_is_the_old_one_again() -> None:
    model = nn.BatchNorm1d(2)
    old = model.running_mean
    with preserved(model):
        model.running_mean = torch.ones(2)
    assert model.running_mean is old
    assert torch.equal(model.running_mean, torch.zeros(2))


def test_training_after_a_check_is_training_without_one() -> None:
    def trained(check: bool) -> Tensor:
        torch.manual_seed(3)
        model, batches = mlp(norm=nn.BatchNorm1d).train(), window(8, 8)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            if check:
                check_accumulation(model, mean, batches)
            optimizer.zero_grad()
            each(mean)(model, batches)
            optimizer.step()
        return torch.cat([x.flatten() for x in model.state_dict().values()])

    assert torch.equal(trained(True), trained(False))
