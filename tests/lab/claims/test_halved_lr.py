"""Twice the batch at the same lr: each verdict from typed-in factors, and the count of samples by hand."""

from collections.abc import Callable
from functools import partial
from math import exp

import pytest
import torch
from torch import Tensor, nn

from truestep.lab import Measurement, Verdict
from truestep.lab._digits import digits
from truestep.lab.claims import halved_lr
from truestep.lab.claims.halved_lr import ARMS, HALVED, PAIRS, judge, plot, samples_to_target

DATA = digits()


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for name in ARMS:
        for small, _ in PAIRS:
            usual |= {f"{name}_factor_{small}": 2.0, f"{name}_scaled_{small}": 1.0, f"{name}_epochs_{small}": 5.0}
    for name in HALVED:
        usual |= {f"{name}_accuracy": 0.9, f"{name}_gain": 0.0}
    return [usual | changed] * 2


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"adam_factor_8": 1.5}, Verdict.PARTLY),
        ({"sgd_large_factor_128": 2.2}, Verdict.PARTLY),
        ({"sgd_factor_8": 1.5}, Verdict.REFUTED),
        ({"sgd_factor_128": 2.5}, Verdict.REFUTED),
        ({"sgd_edge_gain": -0.5}, Verdict.SUPPORTED),  # told, not judged
    ],
)
def test_every_arm_is_needed_and_small_steps_decide(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_an_interval_across_the_edge_decides_nothing() -> None:
    assert judge([typed_in(sgd_factor_8=1.7)[0], typed_in()[0]]).verdict is Verdict.INCONCLUSIVE


def test_the_reason_gives_the_factor_and_in_brackets_that_of_twice_the_lr() -> None:
    reason = judge(typed_in(adam_factor_32=1.6)).reason
    assert "Adam, lr 1e-3: 2.00, 1.60, 2.00 (1.00, 1.00, 1.00)" in reason


def falling(per_step: float) -> Callable[[nn.Module, object], float]:
    """A training loss that falls as e^(-per_step * steps), read off the weight that the optimizer below moves by 1."""

    def loss(model: nn.Module, _: object) -> float:
        return exp(-per_step * next(model.parameters()).flatten()[0].item())

    return loss


class Count(torch.optim.SGD):
    """Adds one to every weight at every step."""

    def __init__(self, params: list[Tensor]) -> None:
        super().__init__(params, lr=1.0)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data += 1.0


def test_samples_are_counted_to_the_fraction_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halved_lr, "training_loss", falling(0.1))
    monkeypatch.setattr(halved_lr, "network", lambda *_: _zeros())
    assert samples_to_target(Count, DATA, 0, 8, target=exp(-0.1 * 18.5)) == pytest.approx(8 * 18.5)
    assert samples_to_target(Count, DATA, 0, 64, target=exp(-0.1 * 18.5)) == pytest.approx(64 * 18.5)


def test_a_target_that_is_never_met_counts_as_the_longest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halved_lr, "MAX_STEPS", 12)
    assert samples_to_target(partial(torch.optim.SGD, lr=0.0), DATA, 0, 8) == 96


def test_at_a_small_lr_twice_the_batch_needs_twice_the_samples_and_at_twice_the_lr_as_many() -> None:
    count = partial(samples_to_target, data=DATA, seed=0, target=2.0)
    small = count(partial(torch.optim.SGD, lr=0.02), batch_size=32)
    assert count(partial(torch.optim.SGD, lr=0.02), batch_size=64) / small == pytest.approx(2.0, abs=0.05)
    assert count(partial(torch.optim.SGD, lr=0.04), batch_size=64) / small == pytest.approx(1.0, abs=0.05)


def test_the_figure_labels_each_arm_with_and_without_the_doubled_lr() -> None:
    left, right = plot(typed_in()).axes
    assert len(left.get_legend().get_texts()) == 2 * len(ARMS)
    assert [label.get_text() for label in right.get_xticklabels()] == [arm.label for arm in HALVED.values()]


def _zeros() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(64, 10, bias=False))
    nn.init.zeros_(model[0].weight)
    return model
