"""The feedback of each unit: verdicts from typed-in numbers, the path's identity, the gap with and without it."""

from math import log

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.unit_feedback import SHRUNK, gap, judge, plot, rank_correlation, run, train, unit_angle


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"correlation_1": -0.8, "correlation_2": -0.7, "free_left": 0.1, "held_left": 1.0}
    usual |= {"spread": 0.2, "path_error": 1e-14, "step": [0.0, 1.0], "free_gap": [16.0, 2.0], "held_gap": [16.0, 16.0]}
    usual |= {"change": [0.5, 1.0], "slowdown": [0.9, 0.6]}
    return [usual | changed, usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"correlation_2": -0.3}, Verdict.PARTLY),
        ({"free_left": 0.6}, Verdict.PARTLY),
        ({"correlation_1": -0.3, "free_left": 0.6}, Verdict.REFUTED),
        ({"held_left": 0.9}, Verdict.INCONCLUSIVE),
    ],
)
def test_both_halves_of_the_sentence_count(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_intervals_that_cross_tell_nothing() -> None:
    low, high = typed_in(correlation_1=-0.6, free_left=0.3)[0], typed_in(correlation_1=-0.4, free_left=0.7)[0]
    assert judge([low, high]).verdict is Verdict.INCONCLUSIVE


def test_the_reason_says_what_is_left_of_the_gap() -> None:
    assert "Of a gap of 16 times" in judge(typed_in()).reason
    assert "10% of the logarithm is left (norms held: 100%)" in judge(typed_in()).reason


def test_the_rank_correlation_knows_ranks_only() -> None:
    x = torch.tensor([3.0, 1.0, 2.0, 5.0], dtype=torch.float64)
    assert rank_correlation(x, x.exp()) == 1.0
    assert rank_correlation(x, torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)) == pytest.approx(0.4)


def test_the_change_of_a_unit_is_an_angle() -> None:
    start = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    moved = unit_angle(torch.tensor([[0.0, 3.0], [5.0, 0.0]], dtype=torch.float64), start)
    torch.testing.assert_close(moved, torch.tensor([torch.pi / 2, 0.0], dtype=torch.float64))


def test_a_disturbed_start_is_a_gap_of_16_that_held_norms_keep() -> None:
    free, held = (gap(train(0, "cpu", 15, disturb=True, hold=hold)) for hold in (False, True))
    near = log(SHRUNK**-2)
    assert abs(free[0] - near) < 0.3  # the other half does not start at norm 1 exactly
    assert free[0] == held[0]
    assert free[-1] < 0.95 * free[0]
    torch.testing.assert_close(held, held[:1].expand(15), rtol=1e-12, atol=0)


def test_the_slowdown_is_the_path_s_identity() -> None:
    measured = run(0, "cpu", steps=15)
    assert measured["path_error"] < 1e-12
    assert len(measured["change"]) == 64
    assert -1 <= measured["correlation_1"] <= 1
    assert run(0, "cpu", steps=3) == run(0, "cpu", steps=3)


def test_the_figure_tells_layers_and_arms_apart() -> None:
    left, right = plot(typed_in()).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["layer 1", "layer 2"]
    assert [text.get_text() for text in right.get_legend().get_texts()][:2] == ["SGD", "norms held"]
