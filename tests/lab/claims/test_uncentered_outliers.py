"""Outliers of uncentred activations: each verdict from typed-in counts, and blocks whose outliers are known."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._blocks import Block
from truestep.lab.claims.uncentered_outliers import CASES, PLAIN, RANK, Case, judge, measured, plot, run

HEAD, HIDDEN = "logistic_softmax_start_head", "logistic_softmax_start_hidden"


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for case in CASES:
        count = 0.0 if case.activation == "tanh" else float(RANK[case.loss])
        numbers = {"found": count, "predicted": count, "error": 0.01, "squared_mean": 4.0, "outlier": 50.0}
        numbers |= {"values": [60.0, 1.0], "expected": [60.0, 0.0]}
        usual |= {f"{case}_{name}": value for name, value in numbers.items()}
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({f"{HIDDEN}_found": 8.0, f"{HIDDEN}_error": 0.2}, Verdict.SUPPORTED),
        ({f"{HIDDEN}_found": 7.0}, Verdict.PARTLY),
        ({f"{HIDDEN}_error": 0.3}, Verdict.PARTLY),
        ({f"{HIDDEN}_found": 11.0, f"{HIDDEN}_predicted": 11.0}, Verdict.PARTLY),  # more than M
        ({"relu_squared_trained_head_found": 0.0}, Verdict.PARTLY),
        ({f"{HEAD}_found": 8.0}, Verdict.REFUTED),
        ({f"{HEAD}_found": 10.0, f"{HEAD}_predicted": 10.0}, Verdict.REFUTED),  # a softmax has one direction less
        ({f"{HEAD}_error": 0.11}, Verdict.REFUTED),
        ({f"{HEAD}_squared_mean": 0.9, f"{HEAD}_found": 8.0}, Verdict.INCONCLUSIVE),
        ({"tanh_squared_start_hidden_found": 1.0}, Verdict.INCONCLUSIVE),
        ({"tanh_squared_trained_hidden_found": 1.0}, Verdict.SUPPORTED),
    ],
)
def test_one_seed_beyond_a_threshold_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_the_reason_parts_blocks_by_how_their_inputs_spread() -> None:
    changed = {"relu_squared_start_head_error": 0.3, "relu_squared_start_head_outlier": -40.0}
    reason = judge(typed_in(relu_softmax_trained_head_squared_mean=196.0, **changed)).reason
    assert "has 9 outliers under softmax" in reason
    assert "above 20 are as predicted within 1.0%, the rest within 30%" in reason
    assert "has ‖m‖² = 100, but" in reason


@pytest.mark.parametrize(("offset", "count"), [(10.0, 3), (0.0, 0)])
def test_a_block_with_three_outputs_has_three_outliers_if_its_inputs_are_off_zero(offset: float, count: int) -> None:
    a = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block = Block(a + offset, torch.eye(3, dtype=torch.float64).expand(200, 3, 3))
    found = measured(block, PLAIN[0])
    assert found[f"{HEAD}_found"] == found[f"{HEAD}_predicted"] == count
    assert found[f"{HEAD}_squared_mean"] == pytest.approx(2 * offset**2, abs=3)
    assert found[f"{HEAD}_error"] < 0.02


def test_a_short_run_has_all_cases() -> None:
    found = run(0, "cpu", steps=1, samples=150)
    assert found["logistic_softmax_start_head_found"] == 9
    assert found["logistic_squared_start_head_found"] == 10
    assert found["tanh_squared_start_head_found"] == 0
    assert all(f"{case}_found" in found for case in CASES)
    assert found["relu_softmax_start_head_found"] != 9


def test_the_figure_has_a_panel_for_each_activation() -> None:
    assert len(plot(typed_in()).axes) == 3
    assert str(Case("a", "softmax", "b", "c")) == "a_softmax_b_c"
