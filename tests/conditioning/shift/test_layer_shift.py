"""The shift of a layer against the dense second moment of (a; 1)."""

import math

import pytest
import torch
from torch import Tensor

from truestep.conditioning.shift import LayerShift, layer_shift
from truestep.core import Moments, moments


def random_rows(index: int) -> Tensor:
    """Inputs of one of many layers: 1 to 12 features, any covariance, means from far below its size to far above."""
    generator = torch.Generator().manual_seed(index)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    features = 1 + index % 12
    return 10 ** (index % 5 - 2) * (randn(40, features) @ randn(features, features)) + 10 ** (index % 3 - 1) * randn(
        features
    )


def dense(rows: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the second moment of (a; 1), or of a."""
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1) if bias else rows
    return torch.linalg.eigh(rows.T @ rows / len(rows))


@pytest.mark.parametrize("bias", [True, False])
def test_the_top_eigenvalue_lies_within_the_bounds_for_100_layers(bias: bool) -> None:
    for index in range(100):
        rows = random_rows(index)
        shift, values = layer_shift(moments(rows), bias=bias), dense(rows, bias)[0]
        slack = 1e-12 * float(values[-1])
        assert shift.lower - slack <= float(values[-1]) <= shift.upper + slack, index
        assert shift.nu <= shift.lower
        if len(values) > 1:
            assert float(values[-2]) <= shift.largest + slack, index


def test_an_outlier_points_along_the_mean_and_the_bias() -> None:
    found = 0
    for index in range(400):
        rows = random_rows(index)
        shift = layer_shift(moments(rows))
        if shift.outlier < 13:
            continue
        direction = torch.cat([shift.mean, torch.ones(1, dtype=torch.float64)]) / math.sqrt(shift.nu)
        assert abs(float(dense(rows, bias=True)[1][:, -1] @ direction)) > 0.999, index
        found += 1
    assert found >= 100


def test_without_the_coordinate_of_the_bias_the_direction_is_another() -> None:
    rows = 0.1 * torch.randn(60, 3, dtype=torch.float64) + 0.5
    mean = rows.mean(0)
    top = dense(rows, bias=True)[1][:, -1]
    assert abs(float(top[:3] @ mean / mean.norm())) < 0.75


def test_centred_inputs_of_small_variance_have_an_outlier_too() -> None:
    rows = torch.tensor([[0.1], [-0.1]], dtype=torch.float64)
    shift = layer_shift(moments(rows))
    assert (shift.nu, shift.outlier) == (1.0, pytest.approx(100, rel=1e-12))
    assert float(dense(rows, bias=True)[0][-1]) == pytest.approx(1.0)


def test_the_hand_worked_shift() -> None:
    shift = layer_shift(moments(torch.tensor([[2.0, 1.0], [4.0, 1.0]])))
    assert (shift.n, shift.mean.tolist(), shift.variance.tolist()) == (2, [3.0, 1.0], [1.0, 0.0])
    assert (shift.nu, shift.largest) == (11.0, 1.0)
    assert (shift.lower, shift.upper) == (11 + 9 / 11, 12.0)
    alone = layer_shift(moments(torch.tensor([[2.0, 1.0], [4.0, 1.0]])), bias=False)
    assert (alone.nu, alone.lower, alone.upper) == (10.0, 10.9, 11.0)


@pytest.mark.parametrize("cut", [1, 7, 39])
def test_the_shift_does_not_depend_on_the_cut(cut: int) -> None:
    rows = random_rows(10)
    whole, parts = layer_shift(moments(rows)), layer_shift(moments(rows[:cut]) + moments(rows[cut:]))
    assert parts.n == whole.n
    for name in ("nu", "largest", "lower", "upper", "outlier"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-11), name


def test_inputs_that_never_change_are_nothing_but_an_outlier() -> None:
    shift = layer_shift(moments(torch.full((5, 2), 2.0)))
    assert (shift.largest, shift.outlier) == (0.0, math.inf)
    nothing = layer_shift(moments(torch.zeros(5, 2)), bias=False)
    assert (nothing.nu, nothing.lower, nothing.upper) == (0.0, 0.0, 0.0)
    assert math.isnan(nothing.outlier)


def test_a_diverged_layer_is_reported_and_does_not_raise() -> None:
    shift = layer_shift(moments(torch.tensor([[math.nan, 1.0, 0.0], [2.0, 1.0, 3.0]])))
    assert math.isnan(shift.nu)
    assert math.isnan(shift.largest)
    assert math.isnan(shift.outlier)


def test_a_layer_without_inputs_has_the_bias_alone() -> None:
    empty = torch.zeros(0, dtype=torch.float64)
    shift = layer_shift(Moments(torch.tensor(3.0, dtype=torch.float64), empty, empty.new_zeros(0, 0)))
    assert (shift.nu, shift.largest, shift.upper) == (1.0, 0.0, 1.0)


def test_rounding_never_makes_a_variance_negative() -> None:
    shift = layer_shift(moments(1e6 + 1e-6 * torch.randn(50, 4, dtype=torch.float64)))
    assert isinstance(shift, LayerShift)
    assert bool((shift.variance >= 0).all())
    assert shift.largest >= 0
    assert shift.lower >= shift.nu
