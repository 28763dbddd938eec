"""AdaBelief under noise: each verdict from typed-in factors, the factor by hand, a short run."""

import pytest
import torch
from torch.optim import SGD

from truestep.compare._belief import adabelief_speed
from truestep.lab import Measurement, Verdict
from truestep.lab.claims.adabelief_speed import ARMS, SNRS, factor, judge, plot, run, steps


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for snr in SNRS:
        usual |= {f"belief_{snr:g}_factor": adabelief_speed(snr).item(), f"belief_{snr:g}_left": 0.01}
        usual |= {f"rmsprop_{snr:g}_factor": 1.0, f"rmsprop_{snr:g}_left": 0.9}
    return [usual | changed, usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.PARTLY),
        ({f"belief_{snr:g}_factor": 10.0 for snr in SNRS}, Verdict.SUPPORTED),
        ({"belief_2_left": 0.2}, Verdict.REFUTED),
        ({"belief_5_factor": 7.0}, Verdict.INCONCLUSIVE),
        ({"rmsprop_0_left": 0.1}, Verdict.INCONCLUSIVE),
    ],
)
def test_a_number_for_each_ratio_or_one_for_all(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_an_interval_that_crosses_the_bound_is_inconclusive() -> None:
    one, other = typed_in(belief_1_left=0.08)[0], typed_in(belief_1_left=0.12)[0]
    assert judge([one, other]).verdict is Verdict.INCONCLUSIVE


def test_steps_are_those_of_the_gradients_given() -> None:
    rows = list(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64).unbind())
    assert steps(lambda params: SGD(params, lr=0.5), rows, 1).tolist() == [[-1.5, -2.0], [-2.5, -3.0]]


def test_twice_adams_step_is_the_factor_two_and_leaves_nothing() -> None:
    adam = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    c, left = factor(2 * adam, adam)
    torch.testing.assert_close(c, torch.full_like(c, 2.0))
    assert left.max() < 1e-12


def test_a_short_run_has_all_that_is_judged_and_is_near_the_closed_form_without_a_mean() -> None:
    measured = run(0, "cpu", settle=300, count=100)
    assert set(measured) == set(typed_in()[0])
    assert measured["belief_0_factor"] == pytest.approx(adabelief_speed(0.0).item(), rel=0.03)


def test_the_figure_has_a_dot_for_each_ratio_and_optimizer() -> None:
    _, right = plot(typed_in()).axes
    assert sum(len(line.get_xdata()) for line in right.lines[:2]) == len(ARMS) * len(SNRS)
