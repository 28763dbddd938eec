"""Rules and runs that torch does not know: subclasses, foreign rules, exceptions, copies, closing."""

import copy
import pickle
from typing import Any

import pytest
import torch
from tests.core.beside import Beside, backward, named, small_net
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from truestep.core import Recorder, Step


def train(run: Beside, model: nn.Module, num_steps: int = 3) -> None:
    for _ in range(num_steps):
        backward(model)
        run.take()


class Decays(SGD):
    """A subclass whose step goes on after its base's: the hooks fire twice."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.mul_(0.9)
        return loss


@pytest.mark.parametrize("base_first", [False, True])
def test_a_subclass_that_calls_its_base_s_step_is_recorded_once_and_whole(base_first: bool) -> None:
    model = small_net()
    if base_first:
        SGD(model.parameters())  # a base that was made once carries the hooks from then on
    run = Beside(named(model), Decays(model.parameters(), lr=0.1))
    train(run, model)
    assert [step.index for step in run.steps] == [0, 1, 2]


class SharpnessAware(Optimizer):
    """Two evaluations and an inner optimizer, as SAM does: the recorded step is the outer one."""

    def __init__(self, params: Any, inner: Optimizer) -> None:
        super().__init__(params, {"rho": 0.05})
        self.inner = inner

    def step(self, closure: Any = None) -> Tensor:
        with torch.enable_grad():
            loss = closure()
        params = self.param_groups[0]["params"]
        with torch.no_grad():
            for p in params:
                p.add_(p.grad, alpha=0.05)
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for p in params:
                p.sub_(p.grad, alpha=0.05)
        self.inner.step()
        return loss


def test_a_step_nested_in_another_optimizer_s_step_is_recorded_beside_it() -> None:
    model, batch = small_net(), torch.randn(8, 5)
    inner = SGD(model.parameters(), lr=0.1)
    outer = SharpnessAware(model.parameters(), inner)
    inside = Beside(named(model), inner)
    run = Beside(named(model), outer)

    def closure() -> Tensor:
        model.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        at_w = torch.autograd.grad(model(batch).square().mean(), model.parameters())
        run.take(lambda: outer.step(closure), dict(zip(named(model), at_w, strict=True)))
    assert [step.index for step in run.steps] == [step.index for step in inside.steps] == [0, 1, 2]


class Foreign(Optimizer):
    """A rule from elsewhere; `harm` is what it does to `.grad`."""

    def __init__(self, params: Any, harm: Any) -> None:
        super().__init__(params, {"lr": 0.1})
        self.harm = harm

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad, alpha=0.1)
            self.harm(p)


def scales(p: Tensor) -> None:
    p.grad.mul_(3)


def scales_data(p: Tensor) -> None:
    p.grad.data.mul_(3)


def drops(p: Tensor) -> None:
    p.grad = None


def nothing(p: Tensor) -> None:
    """Leave the gradient alone."""


@pytest.mark.parametrize("harm", [scales, scales_data, drops, nothing])
def test_a_foreign_rule_s_gradient_is_right_from_the_first_step_on(harm: Any) -> None:
    model = small_net()
    run = Beside(named(model), Foreign(model.parameters(), harm))
    train(run, model)
    assert run.recorder._gradient.keep == (harm is not nothing)
    assert bool(run.recorder._gradient._buffers._of) == (harm is not nothing)


@pytest.mark.parametrize("harm", [scales, drops])
def test_a_torch_rule_that_overwrites_unseen_is_unknown_once_and_right_from_then_on(
    harm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_net()
    optimizer = SGD(model.parameters(), lr=0.1)
    plain = SGD.step

    def overwrites(self: SGD, closure: Any = None) -> None:
        plain.__wrapped__(self, closure)
        for p in model.parameters():
            harm(p)

    monkeypatch.setattr(SGD, "step", Optimizer.profile_hook_step(overwrites))
    run = Beside(named(model), optimizer)
    backward(model)
    optimizer.step()
    took = run.steps[0].took
    assert all(bool(x.isnan().all()) for x in (took.wg, took.gg, took.gd))
    assert all(bool(x.isfinite().all()) for x in (took.ww, took.wd, took.dd))
    train(run, model)


def test_an_exception_inside_the_step_passes_and_the_next_steps_are_right() -> None:
    model = small_net()
    fails = [False]

    def harm(p: Tensor) -> None:
        if fails[0]:
            raise ZeroDivisionError

    run = Beside(named(model), Foreign(model.parameters(), harm))
    train(run, model, 2)
    for _ in range(2):
        fails[0] = True
        backward(model)
        with pytest.raises(ZeroDivisionError):
            run.optimizer.step()
        fails[0] = False
    assert len(run.steps) == 2
    train(run, model)
    assert [step.index for step in run.steps] == [0, 1, 2, 3, 4]


def test_an_exception_of_a_subclass_s_inner_step_does_not_confuse_the_next() -> None:
    model = small_net()
    run = Beside(named(model), Decays(model.parameters(), lr=0.1))
    with pytest.raises(ZeroDivisionError):
        run.optimizer.step(lambda: 1 / 0)
    train(run, model)
    assert [step.index for step in run.steps] == [0, 1, 2]


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

    options: dict[str, Any] = {"on_step": close} if when == "on_step" else {"on_step": len, "on_end": close}
    recorder = Recorder(named(model), optimizer, options.pop("on_step"), **options)
    run = Beside(named(model), optimizer)
    if when == "on_step":
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
