"""A recorder from its first step to its last: numbering, closing, copies of the optimizer, errors of ours."""

import copy
import pickle
from typing import Any

import pytest
import torch
from tests.core.beside import Beside, backward, named, small_net
from torch import Tensor, nn
from torch.optim import SGD, Adam

from truestep.core import Recorder, Step


def train(run: Beside, model: nn.Module, num_steps: int = 3) -> None:
    for _ in range(num_steps):
        backward(model)
        run.assert_step()


def test_close_takes_the_hooks_off_and_lets_the_copies_go() -> None:
    model = small_net()
    run = Beside(named(model), SGD(model.parameters(), 0.1, 0.9, nesterov=True, foreach=True))
    train(run, model, 2)
    run.recorder.close()
    backward(model)
    run.optimizer.step()
    assert len(run.steps) == 2
    assert not run.optimizer._optimizer_step_pre_hooks
    assert not run.optimizer._optimizer_step_post_hooks
    assert run.recorder._weights._of == run.recorder._gradient._buffers._of == {}
    run.recorder.close()


@pytest.mark.parametrize("when", ["on_step", "on_end"])
def test_closing_from_within_a_hook_disturbs_neither_the_step_nor_another_recorder(when: str) -> None:
    model = small_net()
    optimizer = SGD(model.parameters(), lr=0.1)
    closed: list[int] = []

    def close(*_: Any) -> None:
        closed.append(recorder.index)
        recorder.close()

    callbacks: dict[str, Any] = {"on_step": lambda step: None, when: close}
    recorder = Recorder(named(model), optimizer, **callbacks)
    run = Beside(named(model), optimizer)  # torch goes on to its hooks after those of `recorder`
    train(run, model)
    assert len(closed) == 1


def test_an_exception_of_the_taker_goes_to_on_error_and_never_into_the_run() -> None:
    model = small_net()
    optimizer = SGD(model.parameters(), lr=0.1)
    errors: list[Exception] = []
    Recorder(named(model), optimizer, lambda step: 1 / 0, on_error=errors.append)  # type: ignore[arg-type, return-value]
    run = Beside(named(model), optimizer)
    train(run, model)
    assert [type(error) for error in errors] == [ZeroDivisionError] * 3


def test_without_on_error_the_recorder_warns_once_and_closes() -> None:
    model = small_net()
    optimizer = SGD(model.parameters(), lr=0.1)
    Recorder(named(model), optimizer, lambda step: 1 / 0)  # type: ignore[arg-type, return-value]
    run = Beside(named(model), optimizer)
    backward(model)
    with pytest.warns(RuntimeWarning, match="stopped recording SGD after step 0, training goes on: ZeroDivisionError"):
        optimizer.step()
    train(run, model)


def test_names_that_cannot_be_had_stop_no_step() -> None:
    model = small_net()
    optimizer = SGD(model.parameters(), lr=0.1)
    asked: list[int] = []

    def names() -> dict[str, Tensor]:
        asked.append(1)
        return named(model) if len(asked) == 1 else {}[0]

    errors: list[Exception] = []
    Recorder(names, optimizer, lambda step: None, on_error=errors.append)
    run = Beside(named(model), optimizer)
    train(run, model, 2)
    assert [type(error) for error in errors] == [KeyError] * 2


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_of_a_watched_optimizer_is_a_plain_one(way: Any) -> None:
    model = small_net()
    run = Beside(named(model), Adam(model.parameters()))
    train(run, model, 1)
    other = way(run.optimizer)
    for p in other.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    other.step()
    assert len(run.steps) == 1
    assert not other._optimizer_step_post_hooks
    train(run, model, 1)


def test_a_loaded_state_goes_on_where_it_was() -> None:
    model = small_net()
    run = Beside(named(model), Adam(model.parameters(), lr=0.01))
    train(run, model)
    state = copy.deepcopy(run.optimizer.state_dict())
    state["param_groups"][0]["lr"] = 0.5
    run.optimizer.load_state_dict(state)
    train(run, model)
    assert run.steps[-1].asked.lr.tolist() == [0.5] * 4


def test_own_seconds_grow_with_recorded_steps_only() -> None:
    model = small_net()
    run = Beside(named(model), SGD(model.parameters(), lr=0.1), due=lambda index: index < 1)
    train(run, model, 1)
    spent = run.recorder.seconds
    backward(model)
    run.optimizer.step()
    assert 0 < spent == run.recorder.seconds


def test_steps_are_numbered_also_where_they_are_not_recorded() -> None:
    model = small_net()
    ends: list[tuple[int, Any]] = []
    run = Beside(
        named(model),
        SGD(model.parameters(), lr=0.1),
        due=lambda index: index % 3 == 1,
        on_end=lambda index, skipped: ends.append((index, skipped)),
    )
    for _ in range(6):
        backward(model)
        run.optimizer.step()
    assert [step.index for step in run.steps] == [1, 4]
    assert ends == [(index, False) for index in range(6)]


def test_times_are_unix_times_in_order() -> None:
    model = small_net()
    run = Beside(named(model), SGD(model.parameters(), lr=0.1))
    train(run, model)
    times = [step.time for step in run.steps]
    assert times == sorted(times)
    assert times[0] > 1.6e9


def test_recording_the_same_steps_twice_gives_the_same_record() -> None:
    model = small_net()
    one = Beside(named(model), Adam(model.parameters()))
    other: list[Step] = []
    Recorder(named(model), one.optimizer, other.append)
    train(one, model)
    for mine, its in zip(one.steps, other, strict=True):
        assert torch.equal(mine.took.columns(), its.took.columns())
