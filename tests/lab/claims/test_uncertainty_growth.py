"""Uncertainty weights: each verdict from typed-in rates, descent on quadratics by hand, decades off by hand."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab import toy as lab_toy
from truestep.lab.claims.uncertainty_growth import (
    ETA,
    REMAINS,
    S_LRS,
    TOY_STEPS,
    decades_off,
    judge,
    plot,
    quadratics,
    run,
)
from truestep.lab.toy import Course


def typed_in(rate: float = 0.5, **changed: float) -> list[Measurement]:
    usual: Measurement = {f"T{tasks}_equal_mean": 0.9 for tasks in TOY_STEPS}
    for name in S_LRS:
        usual |= {f"T{tasks}_{name}_{key}": 1.0 for tasks in TOY_STEPS for key in ("mean", "off")}
        for c in REMAINS:
            usual |= {f"{name}_{c:g}_rate": rate, f"{name}_{c:g}_thrown": 1.0, f"{name}_{c:g}_curve": [0.1, rate]}
    return [usual | changed, usual | {name: 1.01 * value for name, value in changed.items()}]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (typed_in(5.0), Verdict.SUPPORTED),
        (typed_in(5.0, slow_1_rate=0.1), Verdict.PARTLY),
        (typed_in(fast_0_rate=5.0), Verdict.PARTLY),
        (typed_in(), Verdict.REFUTED),
        (typed_in(fast_0_rate=1.99), Verdict.INCONCLUSIVE),
        (typed_in(T2_slow_off=9.0, T10_slow_off=9.0), Verdict.REFUTED),  # told, not judged
    ],
)
def test_a_weight_is_too_large_where_descent_turns_unstable(measured: list[Measurement], verdict: Verdict) -> None:
    assert judge(measured).verdict is verdict


def test_what_is_thrown_far_is_a_number_without_an_interval() -> None:
    judgement = judge(typed_in(fast_0_rate=5.0, fast_0_thrown=1e30))
    assert judgement.numbers["fast_0_thrown"] == 1.01e30
    assert not any("thrown" in name for name in judgement.intervals)


def test_the_quadratics_start_at_weight_one_half_and_descend_by_their_rate() -> None:
    rates, excess = quadratics(1e-3, 0, 3)
    assert rates.shape == (3, len(REMAINS))
    assert (rates[0] == rates[0, 0]).all()
    torch.testing.assert_close(excess[1:], (1 - rates[:-1]).square() * excess[:-1])
    h = rates[0, 0].item() / (0.5 * ETA)
    assert 0.4 < h < 2.5


def test_adam_moves_s_by_its_lr_at_first_towards_the_loss() -> None:
    rates, excess = quadratics(0.1, 0, 2)
    loss = torch.tensor(REMAINS, dtype=torch.float64) + excess[0]
    moved = (rates[1] / rates[0]).log()  # -s
    torch.testing.assert_close(moved, -0.1 * (loss.log()).sign(), rtol=1e-4, atol=0)


def test_weights_are_off_by_the_decades_between_them_and_half_the_inverse_loss() -> None:
    course = Course([1], {"f0": 10.0, "f1": 1.0}, {}, {"f0": [0.5], "f1": [0.5]}, {"f0": [0.1], "f1": [100.0]}, {}, {})
    assert decades_off(course) == pytest.approx(2.0)  # f0: 2 * 0.1 * 5 = 1; f1: 2 * 100 * 0.5 = 100


def test_a_run_has_a_number_for_each_c_and_lr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_toy, "TEST", 30)
    found = run(0, "cpu", toy_steps={2: 2}, steps=4)
    assert {f"{name}_{c:g}_rate" for name in S_LRS for c in REMAINS} <= set(found)
    assert found["T2_slow_off"] == pytest.approx(found["T2_fast_off"], abs=0.5)  # two steps in: nothing has moved far
    assert found["T2_slow_off"] > 3  # losses go as sigma squared, 1e4


def test_the_figure_has_a_curve_for_each_c_under_both_lrs() -> None:
    left, middle, _ = plot(typed_in()).axes
    assert len(left.get_legend().get_texts()) == len(middle.get_legend().get_texts()) == len(REMAINS)
