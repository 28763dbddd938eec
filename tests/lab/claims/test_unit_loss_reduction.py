"""Unit loss and the reduction: each verdict from typed-in errors, and which reductions differ by a factor."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._training import unit
from truestep.lab.claims.unit_loss_reduction import (
    CASES,
    FACTOR_ONLY,
    LR,
    apart,
    errors,
    judge,
    of_parts,
    plot,
    sum_of,
    unit_of_sum,
)


def numbers(**changed: float) -> list[Measurement]:
    usual: Measurement = dict.fromkeys((*CASES, "training_unit"), 1e-16) | {"training_raw": 0.01}
    usual |= {"unequal": 1.0, "penalty": 0.02}
    return [usual | changed, usual | {name: value * 1.01 for name, value in changed.items()}]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.PARTLY),
        ({"unequal": 1e-16, "penalty": 1e-16}, Verdict.SUPPORTED),
        ({"unequal": 1e-16}, Verdict.PARTLY),
        ({"unequal": 0.005, "penalty": 0.005}, Verdict.INCONCLUSIVE),
        ({"training_raw": 1e-16}, Verdict.INCONCLUSIVE),
        ({"training_unit": 1e-3}, Verdict.REFUTED),
        *(({name: 1e-3}, Verdict.REFUTED) for name in FACTOR_ONLY),
    ],
)
def test_a_factor_must_vanish_and_the_rest_decides_between_partly_and_supported(
    changed: dict[str, float], verdict: Verdict
) -> None:
    assert judge(numbers(**changed)).verdict is verdict


def test_a_factor_vanishes_and_other_weights_do_not() -> None:
    found = errors(0, "cpu")
    assert set(found) == set(CASES)
    assert max(found[name] for name in FACTOR_ONLY) < 1e-14
    assert min(found["unequal"], found["penalty"]) > 1e-3


def test_the_mean_of_means_weighs_a_lonely_sample_as_a_whole_part() -> None:
    losses = torch.tensor([6.0, 1.0, 2.0, 3.0])
    assert of_parts(losses, (1, 3)) == 4.0
    assert of_parts(losses, (2, 2)) == losses.mean()


def test_a_training_on_sums_is_one_on_means_under_unit_loss_also_in_the_short_last_batch() -> None:
    assert apart(unit, unit_of_sum, LR, 0, "cpu", 1) < 1e-13
    assert apart(torch.mean, sum_of, LR / 64, 0, "cpu", 1) > 1e-3  # the last batch has 48 images, not 64


def test_the_figure_has_a_row_for_each_case() -> None:
    (axis,) = plot(numbers()).axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == list(CASES.values())
