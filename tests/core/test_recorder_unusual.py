"""Rules and runs that torch does not know: subclasses, nested steps, foreign rules, exceptions."""

from typing import Any

import pytest
import torch
from tests.core.beside import Beside, backward, named, small_net
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from truestep.core import Recorder, Step


def train(run: Beside, model: nn.Module, num_steps: int = 3) -> None:
    for _ in range(num_steps):
        backward(model)
        run.assert_step()


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
        run.assert_step(lambda: outer.step(closure), dict(zip(named(model), at_w, strict=True)))
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


def test_a_step_that_is_not_recorded_is_timed_once_in_128(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = SGD([weight], lr=0.1)
    recorder = Recorder({"w": weight}, optimizer, lambda _: None, due=lambda _: False)
    ticks = iter(range(3, 100, 3))
    monkeypatch.setattr("truestep.core._recorder.time.perf_counter", lambda: float(next(ticks)))
    for _ in range(65):
        optimizer.step()
    assert recorder.seconds_unrecorded == 0.0
    optimizer.step()
    assert recorder.seconds_unrecorded == 3.0
    assert next(ticks) == 9
    recorder.close()


@pytest.mark.parametrize("period", [2, 8, 128])
def test_a_step_that_is_not_recorded_is_timed_whatever_the_period(period: int) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = SGD([weight], lr=0.1)
    recorder = Recorder({"w": weight}, optimizer, lambda _: None, due=lambda index: index % period == 0)
    for _ in range(200):
        optimizer.step()
    assert recorder.seconds_unrecorded > 0.0
    recorder.close()


def test_what_was_asked_is_on_the_cpu_whatever_the_default_device() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer, steps = SGD([weight], lr=0.1), list[Step]()
    recorder = Recorder({"w": weight}, optimizer, steps.append)
    weight.grad = torch.ones(3)
    torch.set_default_device("meta")
    try:
        optimizer.step()
    finally:
        torch.set_default_device(None)
    recorder.close()
    assert steps[0].asked.lr.tolist() == [0.1]
    assert steps[0].took.columns().device.type == "cpu"


def test_ctrl_c_in_a_recorded_step_leaves_no_hook_behind() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = SGD([weight], lr=0.1)

    def interrupted(_: Step) -> None:
        raise KeyboardInterrupt

    recorder = Recorder({"w": weight}, optimizer, interrupted)
    weight.grad = torch.ones(3)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    recorder.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert recorder.index == 1


def test_giving_up_never_raises_into_the_run_also_where_warnings_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = SGD([weight], lr=0.1)

    def broken(_: Step) -> None:
        raise RuntimeError("ours")

    Recorder({"w": weight}, optimizer, broken)
    weight.grad = torch.ones(3)
    optimizer.step()
    assert "training goes on" in capsys.readouterr().err
    assert weight.tolist() == pytest.approx([0.9] * 3)
