"""Rows and tables of a measurement written by hand."""

import math

import pytest
import torch

from truestep.conditioning.shift import CovariateShift, DirectPath, LayerShift


def typed_in() -> CovariateShift:
    """A measurement written by hand."""
    mean = torch.zeros(61, dtype=torch.float64)
    first = LayerShift(1200, mean, mean, nu=5.03, largest=0.149, lower=5.0491, upper=5.179, ics_share=0.893)
    second = LayerShift(1200, mean[:16], mean[:16], nu=1.0, largest=0.5, lower=1.0, upper=1.5)
    return CovariateShift({"fc1": first, "head": second}, {"norm": DirectPath(1.25, math.nan)}, 3, train_mode=True)


def test_the_table_says_mode_and_units() -> None:
    assert str(typed_in()).splitlines() == [
        "covariate shift over 3 batches, train mode; a: activation of the layer's input",
        "layer  rows  features  ν [a²]  λ1(Σ) [a²]  ν/λ1(Σ)  λ1(Ā) within [a²]  ICS share",
        "fc1    1200        61    5.03       0.149    33.76     5.049 to 5.179     89.3 %",
        "head   1200        16       1         0.5        2           1 to 1.5          -",
        "",
        "gradient with the statistics held fixed, over the full one",
        "normalization  at its input  at the weight before",
        "norm                   1.25                     -",
    ]


def test_the_rows_are_plain_and_have_the_same_keys() -> None:
    rows = typed_in().rows()
    assert [row["layer"] for row in rows] == ["fc1", "head", "norm"]
    assert len({tuple(row) for row in rows}) == 1
    assert all(isinstance(value, (str, int, float)) for row in rows for value in row.values())
    assert (rows[0]["n"], rows[0]["features"], rows[0]["nu"], rows[0]["ics_share"]) == (1200, 61, 5.03, 0.893)
    assert rows[0]["outlier"] == pytest.approx(33.758, abs=1e-3)
    assert (rows[2]["n"], rows[2]["direct"]) == (0, 1.25)
    assert math.isnan(rows[2]["nu"])
    assert math.isnan(rows[0]["direct"])
