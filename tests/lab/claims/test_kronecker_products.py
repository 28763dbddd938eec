"""Eigenvalues of Kronecker products: each verdict from typed-in differences, and the measurement itself."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.kronecker_products import EXACT, LAYERS, all_products, judge, plot, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for layer in LAYERS:
        usual |= {f"{layer}_values": 1e-15, f"{layer}_vectors": 2e-15, f"{layer}_swapped": 0.3, f"{layer}_own": 0.1}
        usual |= {f"{layer}_products": [1.0, 0.5, 0.0], f"{layer}_spectrum": [1.1, 0.4, 0.0]}
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"tanh_head_values": 2e-12}, Verdict.REFUTED),
        ({"tanh_head_own": 1e-5}, Verdict.SUPPORTED),  # other layers tell them apart
        ({f"{layer}_own": 1e-5 for layer in LAYERS}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_worst_layer_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_the_reason_holds_the_numbers() -> None:
    reason = judge(typed_in(relu_head_values=3e-15, relu_head_own=0.42)).reason
    assert "to 3e-15 of the largest" in reason
    assert "up to 42%" in reason


def test_a_run_is_exact_for_the_product_and_not_for_the_ggn() -> None:
    measured = run(0, "cpu", samples=60)
    for layer in LAYERS:
        assert max(measured[f"{layer}_values"], measured[f"{layer}_vectors"]) < EXACT
    assert max(measured[f"{layer}_own"] for layer in LAYERS) > 0.05
    assert measured["relu_head_swapped"] > 0.01
    assert measured == run(0, "cpu", samples=60)


def test_products_worked_out_by_hand() -> None:
    assert all_products(torch.tensor([2.0, 0.0]), torch.tensor([3.0, -1.0])).tolist() == [-2.0, 0.0, 0.0, 6.0]


def test_the_figure_has_two_layers() -> None:
    assert len(plot(typed_in()).axes) == 2
