"""Spline matrices: scipy's own spline, and exact on cubics."""

import pytest
import torch
from scipy.interpolate import CubicSpline

from truestep.compare.speed._spline import delay_matrices, spline_matrix


def test_it_is_scipys_spline() -> None:
    knots = torch.tensor([0.0, 1.0, 2.5, 3.0, 7.0], dtype=torch.float64)
    values, at = torch.randn(5, dtype=torch.float64), torch.linspace(0, 7, 29, dtype=torch.float64)
    theirs = torch.as_tensor(CubicSpline(knots.numpy(), values.numpy())(at.numpy()))
    torch.testing.assert_close(spline_matrix(knots, at) @ values, theirs)


def test_two_knots_make_a_line() -> None:
    knots, at = torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)
    assert spline_matrix(knots, at).tolist() == [pytest.approx([0.75, 0.25])]


def test_a_delayed_curve_is_read_earlier() -> None:
    steps, lags = tuple(range(10, 110, 10)), torch.tensor([0.0, 4.5, 10.0], dtype=torch.float64)
    time = torch.tensor([0, *steps], dtype=torch.float64)
    curves = delay_matrices(steps, lags) @ (time / 100) ** 3
    torch.testing.assert_close(curves, ((time[1:] - lags[:, None]) / 100) ** 3)


def test_before_the_start_a_curve_is_at_its_start_and_after_its_end_unknown() -> None:
    curve = torch.tensor([9.0, 5.0, 4.0], dtype=torch.float64)
    late, early = delay_matrices((2, 4), torch.tensor([3.0, -1.0], dtype=torch.float64)) @ curve
    assert float(late[0]) == 9.0
    assert early.isnan().tolist() == [False, True]
