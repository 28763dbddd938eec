"""Cubic splines as matrices: what is interpolated is linear in the values at the knots."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core._extra import lab_extra


def spline_matrix(knots: Float64[Tensor, " knots"], at: Float64[Tensor, "*places"]) -> Float64[Tensor, "*places knots"]:
    """The matrix that takes values at the knots to the cubic spline's values at `at` (not-a-knot ends).

    Args:
        knots: Rising, at least two; two give a line, three a parabola.
        at: Places between the first and the last.

    Raises:
        ImportError: scipy is not installed.

    Example:
        >>> import torch
        >>> knots = torch.arange(5, dtype=torch.float64)
        >>> spline_matrix(knots, torch.tensor([1.5], dtype=torch.float64)) @ knots**3
        tensor([3.3750], dtype=torch.float64)
    """
    with lab_extra("the speed test"):
        from scipy.interpolate import CubicSpline
    spline = CubicSpline(knots.numpy(), torch.eye(len(knots), dtype=torch.float64).numpy())
    return torch.as_tensor(spline(at.numpy()))


def delay_matrices(steps: Sequence[int], lags: Float64[Tensor, " lags"]) -> Float64[Tensor, "lags points start_points"]:
    """Matrices that take a curve, its start included, to the same curve `lags` steps later, read at `steps`.

    A curve has not begun before its first step: there, its start. After its last step it is not known: there, nan.

    Example:
        >>> import torch
        >>> curve = torch.tensor([5.0, 4.0, 2.0], dtype=torch.float64)  # at the start, and after steps 10 and 20
        >>> delay_matrices((10, 20), torch.tensor([0.0, 10.0, -10.0], dtype=torch.float64)) @ curve
        tensor([[4.0000, 2.0000],
                [5.0000, 4.0000],
                [2.0000,    nan]], dtype=torch.float64)
    """
    knots = torch.tensor([0, *steps], dtype=torch.float64)
    wanted = knots[1:] - lags[:, None]
    matrices = spline_matrix(knots, wanted.clamp(0, steps[-1]))
    return torch.where((wanted > steps[-1]).unsqueeze(-1), torch.nan, matrices)
