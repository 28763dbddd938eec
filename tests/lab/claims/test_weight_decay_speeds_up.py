"""Decay and speed: each verdict from typed-in ratios, the step by hand, and a short run."""

import pytest
import torch

from truestep.lab import Interval, Measurement, Verdict
from truestep.lab._digits import digits
from truestep.lab._normalized import random_copies
from truestep.lab.claims.weight_decay_speeds_up import ARMS, DECAYS, LRS, MARKS, WORST, judge, losses, plot, run, step
from truestep.lab.claims.weight_decay_speeds_up import verdict as verdict_of


def typed_in(ratio: list[float], tuned: float = 0.1, felt: float = 1.5) -> list[Measurement]:
    usual: Measurement = {"felt": felt, "best_lr": 1.0}
    for mark in MARKS:
        for name in ARMS:
            usual |= {f"{name}_loss_{mark}": [0.1] * len(LRS), f"{name}_tuned_{mark}": tuned}
            usual |= {f"{name}_ratio_{mark}": [0.2] * len(LRS)}
    return [usual | {f"hidden_ratio_{MARKS[-1]}": ratio} for _ in range(2)]


@pytest.mark.parametrize(
    ("measurements", "verdict"),
    [
        (typed_in([0.1] * 7), Verdict.REFUTED),
        (typed_in([0.1] * 7, tuned=-0.1), Verdict.SUPPORTED),
        (typed_in([0.1, -0.1, -0.1, 0.1, 0.1, 0.1, 0.1]), Verdict.PARTLY),
        (typed_in([0.1, -0.1, 0.1, -0.1, 0.1, 0.1, 0.1]), Verdict.INCONCLUSIVE),  # no neighbours
        (typed_in([-0.1] * 7, tuned=-0.1, felt=1.05), Verdict.INCONCLUSIVE),
    ],
)
def test_the_tuned_ratio_decides_then_two_lrs_side_by_side(measurements: list[Measurement], verdict: Verdict) -> None:
    assert judge(measurements).verdict is verdict


def test_an_interval_that_reaches_0_is_not_ahead() -> None:
    row = [Interval(-0.1, -0.2, 0.01)] * len(LRS)
    assert verdict_of(row[0], dict.fromkeys(DECAYS, row), Interval(1.5, 1.4, 1.6)) is Verdict.REFUTED


def test_the_reason_names_the_lrs() -> None:
    assert "of the hidden layers ahead at 0.03, 0.1 " in judge(typed_in([0.1, -0.1, -0.1, 0.1, 0.1, 0.1, 0.1])).reason


def test_a_step_decays_each_copy_by_its_own_lr() -> None:
    weights = [torch.ones(2, 1, 1), torch.ones(2, 1, 1)]
    gradients = [torch.full((2, 1, 1), 0.5), torch.zeros(2, 1, 1)]
    lrs, none, some = torch.tensor([0.1, 0.2]), torch.zeros(2), torch.tensor([0.0, 1.0])
    step(weights, gradients, lrs, [some, none])
    torch.testing.assert_close(weights[0].flatten(), torch.tensor([1 - 0.05, 1 - 0.1 - 0.2]))
    assert weights[1].flatten().tolist() == [1.0, 1.0]


def test_a_broken_copy_counts_as_the_worst_and_harms_no_other() -> None:
    weights = random_copies(2, torch.Generator().manual_seed(0), "cpu")
    with torch.no_grad():
        weights[0][0, 0, 0] = torch.nan
    broken, whole = losses(weights, digits()).tolist()
    assert broken == WORST
    assert 1 < whole < 4


def test_a_short_run_keeps_the_effective_lr_up_a_little() -> None:
    measured = run(0, "cpu", marks=(5, 10))
    assert 1 < measured["felt"] < 1.01
    assert len(measured["none_loss_10"]) == len(LRS)
    assert measured["all_ratio_5"][0] == pytest.approx(0.0, abs=1e-3)  # lr .01: five steps of decay 5e-4 are nothing
    assert run(0, "cpu", marks=(2,)) == run(0, "cpu", marks=(2,))


def test_the_figure_has_a_panel_for_the_first_and_the_last_mark() -> None:
    left, right = plot(typed_in([0.1] * 7)).axes
    assert (left.get_title(), right.get_title()) == ("after 300 steps", "after 3000 steps")
