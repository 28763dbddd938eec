"""Rules for the lr at another batch size: each verdict from typed-in gaps, and the two tests on short runs."""

from functools import partial

import pytest
import torch

from truestep.lab import Interval, Measurement, Verdict
from truestep.lab._digits import digits
from truestep.lab._lr_rules import (
    CENTRE,
    FACTORS,
    POWERS,
    TUNED_FACTORS,
    Setup,
    crossing,
    curve_gaps,
    judge_rules,
    linear_verdict,
    plot_rules,
    power_rule,
    tuned_regrets,
)

DATA = digits()
SAME, WIDE, OFF = Interval(0.0, -0.05, 0.05), Interval(0.1, -0.1, 0.3), Interval(-0.5, -0.6, -0.4)
BETTER, WORSE = Interval(-0.2, -0.3, -0.1), Interval(0.2, 0.1, 0.3)


def sgd(lr: float) -> Setup:
    return Setup(lambda lr: partial(torch.optim.SGD, lr=lr), lr, range(-5, -2), {})


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"matching_power": 1.0, "best_slope": 0.2}
    for name in POWERS:
        usual |= {f"{name}_gap_{k}": 0.0 for k in FACTORS} | {f"{name}_regret_{k}": 0.5 for k in TUNED_FACTORS}
    usual |= {f"best_{k}": 0.5 for k in (1, *TUNED_FACTORS)}
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "regret", "verdict"),
    [
        ({}, BETTER, Verdict.SUPPORTED),
        ({}, WORSE, Verdict.PARTLY),
        ({FACTORS[-1]: OFF}, BETTER, Verdict.PARTLY),
        ({FACTORS[0]: WIDE}, BETTER, Verdict.PARTLY),
        ({CENTRE: WIDE}, BETTER, Verdict.INCONCLUSIVE),
        ({CENTRE: OFF}, BETTER, Verdict.REFUTED),
    ],
)
def test_the_gap_at_the_centre_and_the_tuned_regret_decide(
    changed: dict[int, Interval], regret: Interval, verdict: Verdict
) -> None:
    assert linear_verdict(dict.fromkeys(FACTORS, SAME) | changed, regret) is verdict


def test_the_lead_over_the_square_root_is_taken_seed_by_seed() -> None:
    regrets: list[dict[str, float]] = [
        {"linear_regret_4": 1.0, "sqrt_regret_4": 1.1},
        {"linear_regret_4": 9.0, "sqrt_regret_4": 9.1},
    ]
    judgement = judge_rules([typed_in()[0] | row for row in regrets], lambda _: "")
    assert judgement.intervals["linear_less_sqrt"].high == pytest.approx(-0.1)
    assert judgement.verdict is Verdict.SUPPORTED


def test_the_reason_is_told_from_the_means_over_seeds() -> None:
    told = judge_rules(typed_in(best_slope=0.4), lambda interval: f"{interval['best_slope'].mean:.1f}").reason
    assert told == "0.3"


@pytest.mark.parametrize(
    ("values", "power"),
    [
        ({0.0: 1.0, 0.5: 0.5, 1.0: -0.5}, 0.75),
        ({0.0: 1.0, 0.5: 0.0, 1.0: -0.5}, 0.5),
        ({0.0: -1.0, 1.0: -2.0}, 0.0),
        ({0.0: 2.0, 1.0: 1.0}, 1.0),
    ],
)
def test_the_crossing_is_linear_between_two_powers_and_an_end_outside(values: dict[float, float], power: float) -> None:
    assert crossing(values) == power


@pytest.mark.parametrize(("power", "lr"), [(0.0, 0.02), (0.5, 0.04), (1.0, 0.08)])
def test_a_power_rule_multiplies_the_lr_by_k_to_the_power(power: float, lr: float) -> None:
    optimizer = power_rule(sgd(0.02), power)(0.02, 4)([torch.zeros(1)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(lr)


def test_without_an_lr_no_rule_has_a_gap() -> None:
    gaps = curve_gaps(sgd(0.0), DATA, 0, (1,), (2, 4))
    assert {gaps[f"{name}_gap_{k}"] for name in POWERS for k in (2, 4)} == {0.0}


def test_at_a_tiny_lr_only_the_linear_rule_keeps_the_curve() -> None:
    gaps = curve_gaps(sgd(1e-3), DATA, 0, (1, 2), (2,))
    curves = {name: gaps[f"{name}_curve_2"] for name in POWERS}
    assert max(abs(gap) for gap in curves["linear"]) < 1e-4
    assert min(curves["sqrt"]) > 3e-3
    assert gaps["const_gap_2"] == curves["const"][-1] > gaps["sqrt_gap_2"]
    assert gaps["matching_power"] == pytest.approx(1.0, abs=0.01)


def test_a_regret_is_zero_at_the_best_lr_of_the_grid_and_never_negative() -> None:
    found = tuned_regrets(sgd(0.02), DATA, 0, (1,), (4,))
    assert found["best_1"] == found["best_4"] == 2.0**-3  # the largest of the grid, for both
    assert {found[f"{name}_regret_4"] for name in POWERS} == {0.0}  # beyond the grid is its end
    assert found["best_slope"] == 0.0


def test_the_figure_has_a_line_for_each_rule_and_a_point_for_each_best_lr() -> None:
    left, right = plot_rules(typed_in(), tuple(POWERS)).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["counts as the same", *POWERS]
    points = [line for line in right.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in points] == [1 + len(TUNED_FACTORS)] * 2
