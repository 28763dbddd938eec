"""GradNorm over alpha: each verdict from typed-in numbers, and the range of a short run."""

import math

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab import toy as lab_toy
from truestep.lab._toy_methods import gradnorm
from truestep.lab.claims.gradnorm_alpha import ALPHAS, LR, STEPS, judge, plot, run
from truestep.lab.toy import make_toy, scales, train


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for tasks in STEPS:
        usual |= {f"T{tasks}_means": [0.8] * len(ALPHAS), f"T{tasks}_equal": 0.9, f"T{tasks}_log_range": 0.05}
        usual |= {f"T{tasks}_log_worst": -0.1, f"T{tasks}_log_best": -0.2}
    return [usual | changed, usual | {name: 1.01 * value for name, value in changed.items()}]


WIDE = {f"T{tasks}_log_range": 0.3 for tasks in STEPS}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"T2_log_worst": 0.1}, Verdict.SUPPORTED),  # insensitive, if no help
        ({"T2_log_range": 0.3}, Verdict.PARTLY),
        (WIDE, Verdict.PARTLY),  # but every alpha beats equal weights
        (WIDE | {"T2_log_worst": 0.1}, Verdict.REFUTED),
        ({"T2_log_range": 0.3, "T10_log_range": 0.0953, "T2_log_worst": 0.1}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_range_over_alpha_decides_and_then_equal_weights(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_a_run_compares_the_alphas_from_one_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_toy, "TEST", 30)
    found = run(0, "cpu", steps={2: 2})
    means = found["T2_means"]
    assert isinstance(means, list)
    assert means[1] == train(make_toy(scales(2), 0), gradnorm(ALPHAS[1]), lr=LR, steps=2, seed=0).mean
    assert found["T2_log_range"] == pytest.approx(math.log(max(means) / min(means)))
    assert found["T2_log_worst"] - found["T2_log_best"] == pytest.approx(found["T2_log_range"])


def test_the_reason_turns_the_range_into_per_cent() -> None:
    assert "is 35 % above its best" in judge(typed_in(T2_log_range=0.3)).reason


def test_the_figure_has_a_curve_and_a_line_for_each_seed() -> None:
    for axis in plot(typed_in()).axes:
        assert len(axis.lines) == 2 * 2 + 1
