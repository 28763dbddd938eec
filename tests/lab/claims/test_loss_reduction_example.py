"""The worked example: its numbers one by one, and each verdict."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.loss_reduction_example import (
    ARMS,
    CURVED_LRS,
    Arm,
    judge,
    misclassified,
    plot,
    run,
    update,
)

TRUE = {"sum_one": -0.04, "sum_two": -0.08, "sum_mega": -0.08, "mean_one": -0.04}
TRUE |= {"mean_two": -0.08, "mean_mega": -0.04, "mean_mega_scaled": -0.08}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_update_is_what_the_formula_says_wherever_the_errors_lie(seed: int) -> None:
    measured = run(seed, "cpu")
    assert {name: measured[name] for name in ARMS} == pytest.approx(TRUE, rel=1e-14)
    assert measured["mega_mean_loss"] == 0.125


def test_the_printed_values_are_the_source_s() -> None:
    printed = {name: arm.printed for name, arm in ARMS.items() if arm.printed is not None}
    assert printed == {"sum_two": -0.04, "sum_mega": -0.04, "mean_one": -0.04, "mean_mega": -0.04}


def test_eight_of_each_batch_are_wrong() -> None:
    wrong = misclassified(torch.Generator().manual_seed(0))
    assert wrong.view(2, 64).sum(1).tolist() == [8, 8]


def test_with_a_curved_loss_two_steps_fall_short_of_one_by_half_the_curvature() -> None:
    one = torch.ones(2, dtype=torch.float64)
    two_steps = update(Arm("", (1, 1), "sum", 0.1, None), one, curvature=3.0)
    one_step = update(Arm("", (2,), "sum", 0.1, None), one, curvature=3.0)
    # w = -.05, then -.05 - .1 (.5 - .15) = -.085; one step of both: -.1
    assert two_steps == pytest.approx(-0.085)
    assert one_step == pytest.approx(-0.1)


def numbers(**changed: float) -> list[Measurement]:
    return [{**TRUE, "mega_mean_loss": 0.125, "curved": [0.0] * len(CURVED_LRS)} | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.PARTLY),  # the printed sums are half of what they should be
        ({"sum_two": -0.04, "sum_mega": -0.04, "mean_two": -0.04, "mean_mega": -0.04}, Verdict.REFUTED),
        ({"sum_mega": -0.04}, Verdict.REFUTED),
        ({"mean_mega": -0.08}, Verdict.REFUTED),
        ({"mean_mega_scaled": -0.04}, Verdict.REFUTED),
    ],
)
def test_a_wrong_comparison_refutes_and_a_wrong_number_only_limits(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(numbers(**changed)).verdict is verdict


def test_the_claim_would_stand_if_the_right_numbers_were_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sum_two", "sum_mega"):
        monkeypatch.setitem(ARMS, name, ARMS[name]._replace(printed=-0.08))
    assert judge(numbers()).verdict is Verdict.SUPPORTED


def test_the_reason_names_what_is_printed_wrongly() -> None:
    reason = judge(numbers()).reason
    assert "sum, two batches of 64: -0.04, is -0.08; sum, one batch of 128: -0.04, is -0.08" in reason
    assert "mean, one batch of 64:" not in reason


def test_a_number_that_depends_on_the_draw_is_no_arithmetic() -> None:
    assert judge([*numbers(), *numbers(sum_one=-0.05)]).verdict is Verdict.INCONCLUSIVE


def test_the_figure_has_a_bar_for_each_arm_and_a_mark_for_each_printed_number() -> None:
    (axis,) = plot(numbers()).axes
    assert [bar.get_width() for bar in axis.patches][::-1] == list(TRUE.values())
    assert len(axis.lines[0].get_xdata()) == 4
