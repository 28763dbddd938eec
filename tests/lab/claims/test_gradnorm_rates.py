"""Similar rates: each verdict from typed-in spreads, and the spreads of a short run."""

import math

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab import toy as lab_toy
from truestep.lab.claims.gradnorm_rates import METHODS, STEPS, judge, plot, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for tasks in STEPS:
        for name in METHODS:
            usual |= {f"T{tasks}_{name}_spread": 0.4 if name == "equal" else 0.1, f"T{tasks}_{name}_mean": 0.8}
            usual[f"T{tasks}_{name}_last"] = [0.8] * tasks
    return [usual | changed, usual | {name: 1.01 * value for name, value in changed.items()}]


SAME = {f"T{tasks}_{name}_spread": 0.4 for tasks in STEPS for name in ("low", "high")}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"T2_low_spread": 0.3}, Verdict.PARTLY),  # less, but not half
        (SAME | {"T10_high_spread": 0.3}, Verdict.PARTLY),
        (SAME, Verdict.REFUTED),
        (SAME | {"T2_low_spread": 0.9}, Verdict.REFUTED),
        ({f"T{tasks}_unit_spread": 2.0 for tasks in STEPS}, Verdict.SUPPORTED),  # told, not judged
        ({"T2_equal_spread": 0.09, "T2_low_spread": 0.01, "T2_high_spread": 0.01}, Verdict.INCONCLUSIVE),
    ],
)
def test_every_alpha_must_halve_the_spread_and_one_must_lower_it(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_an_uncertain_fall_is_inconclusive() -> None:
    first, second = typed_in(**SAME)
    assert judge([first | {"T2_low_spread": 0.2}, second]).verdict is Verdict.INCONCLUSIVE


def test_the_interval_is_of_the_logarithm_over_equal_weights() -> None:
    found = judge(typed_in(T10_low_spread=0.2)).intervals["T10_low_log_spread"]
    assert found.mean == pytest.approx(math.log(0.5), abs=0.01)


def test_a_run_gives_the_spread_of_its_own_last_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_toy, "TEST", 30)
    found = run(0, "cpu", steps={2: 2})
    for name in METHODS:
        last = torch.tensor(found[f"T2_{name}_last"], dtype=torch.float64)
        assert found[f"T2_{name}_spread"] == pytest.approx(((last[0] / last[1]).log().abs() / 2).item())
        assert found[f"T2_{name}_mean"] == pytest.approx(last.mean().item())


def test_the_figure_has_a_line_for_each_method_and_seed() -> None:
    for axis in plot(typed_in()).axes:
        assert len(axis.lines) == 2 * len(METHODS) + 1
