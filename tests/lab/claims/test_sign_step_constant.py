"""SignSGD's step: each verdict from typed-in spreads, the length by hand, a short run."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._results import LONGEST_CURVE
from truestep.lab.claims.sign_step_constant import ARMS, DRAWN, EVERY, STEPS, TASKS, judge, lengths, plot, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for task in TASKS:
        usual |= {f"{task}_off": 1e-6, f"{task}_largest_off": 1e-6, f"{task}_zeros": 0.1}
        usual |= {f"{task}_{arm}_spread": 5.0 if arm == "sgd" else 1.05 for arm in ARMS}
    usual |= {f"{DRAWN}_{arm}": [1.0, 0.9] for arm in ARMS}
    return [dict(usual) | changed, dict(usual) | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"bfloat16_sign_spread": 1.4}, Verdict.PARTLY),
        ({f"{task}_sign_spread": 1.4 for task in TASKS}, Verdict.REFUTED),
        ({"cnn_sgd_spread": 1.5}, Verdict.INCONCLUSIVE),  # the contrast
    ],
)
def test_the_spread_is_judged_task_by_task_against_that_of_sgd(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_a_spread_that_crosses_the_bound_is_inconclusive() -> None:
    one, other = typed_in(mlp_sign_spread=1.2)[0], typed_in(mlp_sign_spread=1.3)[0]
    judgement = judge([one, other])
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "it cannot be told, on MLP on digits at batch 64 (1.25; SGD 5.0)" in judgement.reason


def test_the_length_is_that_of_the_elements_with_a_gradient() -> None:
    each = lengths(TASKS["mlp"], "sign", 0, "cpu", 3)
    torch.testing.assert_close(each.l2, (1 - each.zeros).sqrt(), rtol=1e-4, atol=0)
    torch.testing.assert_close(each.largest, torch.ones(3, dtype=torch.float64), rtol=1e-4, atol=0)
    assert (each.zeros > 0.05).all()  # dark pixels, ReLUs that are off


def test_bfloat16_rounds_the_step() -> None:
    each = lengths(TASKS["bfloat16"], "sign", 0, "cpu", 2)
    assert (each.largest > 1.05).all()


def test_a_short_run_has_all_that_is_judged() -> None:
    measured = run(0, "cpu", steps=2)
    assert set(measured) == set(typed_in()[0])
    assert judge([measured, measured]).verdict in Verdict


def test_the_figure_has_every_fourth_step_at_its_place() -> None:
    measured = [one | {f"{DRAWN}_{arm}": [1.0, 0.9, 0.8] for arm in ARMS} for one in typed_in()]
    left, _ = plot(measured).axes
    assert [*left.lines[0].get_xdata()] == [1, 5, 9]
    assert STEPS / EVERY <= LONGEST_CURVE  # a longer curve is thinned when it is kept


def test_the_figure_has_a_dot_for_each_task_and_optimizer() -> None:
    _, right = plot(typed_in()).axes
    assert sum(len(line.get_xdata()) for line in right.lines[:3]) == 3 * len(TASKS)
