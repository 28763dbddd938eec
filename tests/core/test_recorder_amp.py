"""A gradient scaler's scale is taken out of the recorded gradient exactly once, and a skipped step is called one."""

from typing import Any

import pytest
import torch
from tests.core.beside import Beside, gradients, named, small_net
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

RULES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "SGD": (SGD, {"lr": 0.1}),
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (Adam, {"lr": 0.01}),
    "AdamW": (AdamW, {"lr": 0.01}),
    "Adagrad": (Adagrad, {"lr": 0.01}),
}
WAYS: dict[str, dict[str, Any]] = {
    "for loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


class Scaled:
    """A net trained through a gradient scaler on the CPU."""

    def __init__(self, rule: str, way: str, scale: float = 1024.0) -> None:
        self.model = small_net()
        kind, settings = RULES[rule]
        self.optimizer = kind(self.model.parameters(), **settings, **WAYS[way])
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        self.run = Beside(named(self.model), self.optimizer)

    def backward(self, *, spoil: bool = False) -> dict[str, Tensor]:
        """Scaled gradients in `.grad`; the true ones are returned."""
        self.batch = torch.randn(8, 5)
        at_w = gradients(self.model, self.loss)
        self.optimizer.zero_grad()
        self.scaler.scale(self.loss()).backward()
        if spoil:
            next(iter(self.model.parameters())).grad[0, 0] = torch.inf
        return at_w

    def loss(self) -> Tensor:
        return (self.model(self.batch) - 1).square().mean()

    def step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", RULES)
def test_the_recorded_gradient_is_free_of_the_scale(rule: str, way: str) -> None:
    run = Scaled(rule, way)
    for _ in range(4):
        run.run.assert_step(run.step, run.backward())


@pytest.mark.parametrize("way", WAYS)
def test_a_scale_that_is_no_power_of_two_costs_float32_roundings_only(way: str) -> None:
    run = Scaled("Adam", way, scale=1000.0)
    for _ in range(2):
        run.run.assert_step(run.step, run.backward(), tolerance=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_that_the_user_unscaled_and_clipped_is_not_divided_again(way: str) -> None:
    run = Scaled("AdamW", way)
    for _ in range(3):
        run.backward()
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), 0.01)
        expected = run.run.assert_step(run.step)
        assert float(expected.gg.sum().sqrt()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("way", ["for loop", "foreach"])
def test_without_fused_a_skipped_step_never_reaches_the_optimizer(way: str) -> None:
    run = Scaled("momentum", way)
    run.run.assert_step(run.step, run.backward())
    run.backward(spoil=True)
    run.step()
    assert [step.index for step in run.run.steps] == [0]
    assert run.run.recorder.index == 1
    run.run.assert_step(run.step, run.backward())
    assert [(step.index, step.skipped) for step in run.run.steps] == [(0, False), (1, False)]


@pytest.mark.parametrize("rule", RULES)
def test_with_fused_a_skipped_step_is_recorded_as_one_that_moved_nothing(rule: str) -> None:
    run = Scaled(rule, "fused")
    run.run.assert_step(run.step, run.backward())
    run.backward(spoil=True)
    run.step()
    skipped = run.run.steps[1]
    assert skipped.skipped
    assert skipped.took.dd.tolist() == [0.0] * 4
    assert skipped.took.gg[0].isinf()
    run.run.assert_step(run.step, run.backward())
    assert [step.skipped for step in run.run.steps] == [False, True, False]


def test_with_fused_a_skipped_step_shows_the_unscaled_gradient_of_the_other_blocks() -> None:
    run = Scaled("Adam", "fused")
    at_w = run.backward(spoil=True)
    run.step()
    expected = torch.stack([g.double().square().sum() for g in at_w.values()])
    torch.testing.assert_close(run.run.steps[0].took.gg[1:], expected[1:], rtol=1e-12, atol=0)


def test_after_a_step_it_is_told_whether_the_step_was_skipped_also_where_it_is_not_recorded() -> None:
    ends: list[tuple[int, bool]] = []
    run = Scaled("Adam", "fused")
    run.run.recorder.close()
    Beside(named(run.model), run.optimizer, due=lambda index: False, on_end=lambda i, s: ends.append((i, bool(s))))
    for spoil in (False, True, False):
        run.backward(spoil=spoil)
        run.step()
    assert ends == [(0, False), (1, True), (2, False)]


class Mine(Adam):
    """A user's subclass of a fused rule: not from torch.optim, so its gradient is kept."""


def test_a_subclass_of_a_fused_rule_is_free_of_the_scale_too() -> None:
    run = Scaled("Adam", "fused")
    run.run.recorder.close()
    run.optimizer = Mine(run.model.parameters(), lr=0.01, fused=True)
    run.run = Beside(named(run.model), run.optimizer)
    for _ in range(4):
        run.run.assert_step(run.step, run.backward())


def test_autocast_to_bfloat16_changes_nothing_for_the_recorder() -> None:
    model = small_net()
    run = Beside(named(model), AdamW(model.parameters(), lr=0.01))
    for _ in range(3):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.randn(8, 5)).square().mean()
        loss.backward()
        assert bool((run.assert_step().dd > 0).all())
