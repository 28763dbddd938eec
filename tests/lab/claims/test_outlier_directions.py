"""Directions of outliers: each verdict from typed-in cosines, and a block whose eigenvectors are known."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._blocks import Block
from truestep.lab.claims.outlier_directions import KINDS, NETS, cosines, judge, plot, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {f"{name}_{kind}": 0.5 for name in NETS for kind in KINDS}
    usual |= {f"{name}_outlier": 3.0 for name in NETS}
    usual |= {"logistic_mean": 0.9, "logistic_whole": 0.9999, "logistic_weights": 0.9998}
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.PARTLY),
        ({"logistic_whole": 0.98}, Verdict.REFUTED),
        ({"logistic_weights": 0.98}, Verdict.REFUTED),
        ({"tanh_whole": 0.95, "logistic_whole": 0.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_one_seed_beyond_a_threshold_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_all_along_the_mean_is_what_the_sentence_says() -> None:
    (one, _) = typed_in()
    assert judge([one | {"logistic_mean": 0.99}, one | {"logistic_mean": 1.0}]).verdict is Verdict.SUPPORTED


def test_the_reason_holds_the_cosines() -> None:
    assert "down to 0.870 with m ⊗ v" in judge(typed_in(logistic_mean=0.87)).reason


def test_equal_inputs_make_eigenvectors_of_the_mean_with_the_bias() -> None:
    a = torch.tensor([[3.0, 4.0]], dtype=torch.float64).expand(5, 2)
    found = cosines(Block(a, torch.eye(2, dtype=torch.float64).expand(5, 2, 2)), 2)
    assert found["whole"] == pytest.approx(1.0)
    assert found["weights"] == pytest.approx(1.0)
    assert found["mean"] == pytest.approx((25 / 26) ** 0.5)


def test_the_least_of_the_cosines_counts() -> None:
    a = torch.tensor([[3.0, 1.0], [3.0, -1.0]], dtype=torch.float64)
    found = cosines(Block(a, torch.ones(2, 1, 1, dtype=torch.float64)), 2)  # one outlier, and one across the mean
    assert max(found.values()) < 1e-6


def test_a_run_finds_the_bias_in_the_eigenvectors() -> None:
    found = run(0, "cpu", samples=100)
    assert found["logistic_mean"] < 0.95 < 0.999 < found["logistic_whole"]
    assert found["tanh_whole"] < 0.9
    assert found == run(0, "cpu", samples=100)


def test_the_figure_has_a_row_for_each_net_and_direction() -> None:
    (axis,) = plot(typed_in()).axes
    assert len(axis.get_yticklabels()) == 9
