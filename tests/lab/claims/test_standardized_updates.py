"""Standardised updates: each verdict from typed-in numbers, and short runs that feel offsets or do not."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._blocks import blocks, centred_digits, net
from truestep.lab.claims.standardized_updates import ARMS, COORDINATES, LAYERS, excess, judge, plot, run
from truestep.lab.claims.uncentered_outliers import WIDTHS


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {f"{layer}_{name}": 1.1 for layer in LAYERS for name in COORDINATES}
    usual |= {"logistic_hidden_raw": 30.0, "logistic_head_raw": 300.0}
    usual |= {f"{arm}_difference": 1e-12 for arm in ARMS} | {"sgd_difference": 0.5}
    return [dict(usual), usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"centering_difference": 1.0, "tanh_head_raw": 50.0}, Verdict.SUPPORTED),
        ({"standardizing_difference": 2e-9}, Verdict.PARTLY),
        ({"tanh_hidden_standardized": 2.1}, Verdict.PARTLY),
        ({"standardizing_difference": 2e-9, "logistic_head_standardized": 2.1}, Verdict.REFUTED),
        ({"sgd_difference": 0.09}, Verdict.INCONCLUSIVE),
        ({"logistic_hidden_raw": 9.0, "standardizing_difference": 1.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_one_seed_beyond_a_threshold_decides(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_the_reason_holds_the_worst_numbers() -> None:
    reason = judge(typed_in(standardizing_difference=3e-11, logistic_head_standardized=1.57)).reason
    assert "at most 1.57 times" in reason
    assert "by 3e-11 (diagonal" in reason


def test_a_short_run_feels_offsets_under_sgd_alone() -> None:
    found = run(0, "cpu", steps=4, samples=100)
    assert found["sgd_difference"] > 1e-3
    assert max(found[f"{arm}_difference"] for arm in ARMS if arm != "sgd") < 1e-9


def test_standardized_coordinates_have_no_outlier_and_centred_ones_have_the_bias_s() -> None:
    generator = torch.Generator().manual_seed(0)
    x, _ = centred_digits("cpu", 200, generator)
    found = excess(blocks(net("logistic", WIDTHS, generator, "cpu"), x, "softmax")[-1])
    assert found["raw"] > found["centred"] > 10 > 2 > found["standardized"]


def test_the_figure_has_two_panels() -> None:
    assert len(plot(typed_in()).axes) == 2
