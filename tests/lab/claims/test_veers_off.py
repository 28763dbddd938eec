"""Veering off: each verdict from typed-in accuracies, and the descent of a few steps."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.veers_off import (
    ARMS,
    DECAYED,
    FITTING,
    Arm,
    descend,
    judge,
    largest_rise,
    lowest_after_fit,
    plot,
    run,
)

KEYS = {"lowest": 0.4, "falls": 3.0, "fitted": 1.0, "norm": 0.1, "rise": 0.0, "end": 1.0}


def typed_in(**changed: float) -> list[Measurement]:
    one: Measurement = {}
    for name in ARMS:
        one |= {f"{name}_{key}": changed.get(f"{name}_{key}", value) for key, value in KEYS.items()}
        one[f"{name}_curve"] = [0.0, -1.0]
    one["free_lowest"] = changed.get("free_lowest", 1.0)
    return [dict(one), one]


NONE = {f"{name}_lowest": 1.0 for name in DECAYED}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"held_lowest": 1.0}, Verdict.PARTLY),
        ({"half_lowest": 0.96}, Verdict.PARTLY),
        ({"half_rise": 0.1, "tenth_end": 0.99}, Verdict.PARTLY),
        (NONE, Verdict.REFUTED),
        ({f"{name}_rise": 0.1 for name in DECAYED}, Verdict.INCONCLUSIVE),
        ({"free_lowest": 0.5}, Verdict.INCONCLUSIVE),
    ],
)
def test_every_setting_must_leave_the_fit_and_converge(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_seeds_that_do_not_agree_are_inconclusive() -> None:
    assert judge([typed_in(**NONE)[0], typed_in()[0]]).verdict is Verdict.INCONCLUSIVE


def test_a_run_that_never_fits_has_left_nothing() -> None:
    assert lowest_after_fit(torch.tensor([0.5, 0.9, 0.3])) == 1.0


def test_a_rise_is_counted_from_the_lowest_loss_so_far() -> None:
    assert largest_rise(torch.tensor([3.0, 2.0, 1.0])) == 0.0
    assert largest_rise(torch.tensor([3.0, 1.0, 1.5, 2.0])) == 1.0


def test_arms_start_alike_and_decay_is_turned_off() -> None:
    course = descend([Arm("", 0.5, 0.0), Arm("", 0.5, 0.1)], 0, "cpu", 10, 5)
    assert course.loss.shape == (15, 2)
    assert course.loss[0, 0] == course.loss[0, 1]
    assert course.norm[2, 1] < course.norm[2, 0]
    pure = descend([Arm("", 1e-9, 1e7)], 0, "cpu", 10, 10)  # w' = 0.99 w, the gradient negligible
    torch.testing.assert_close(
        pure.norm[2] / pure.norm[0], torch.tensor([0.99**10], dtype=torch.float64), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(pure.norm[3], pure.norm[2], rtol=1e-6, atol=0)


def test_a_short_run_measures_every_arm() -> None:
    measured = run(0, "cpu", steps=(20, 10), off=10)
    assert set(measured) == set(typed_in()[0])
    assert measured["free_fitted"] in (0.0, 1.0)


def test_the_figure_shows_a_setting_beside_the_counter_example() -> None:
    left, right = plot(typed_in()).axes
    assert [text.get_text() for text in right.get_legend().get_texts()] == [ARMS[n].label for n in ("held", "bare")]
    assert len(left.get_legend().get_texts()) == len(FITTING) - 1
