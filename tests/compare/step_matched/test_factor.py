"""The length of a step and the factor that sets it, by hand and for every angle that can be reached."""

from math import atan, inf, pi, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from truestep.compare.step_matched._extent import Extent, extent
from truestep.compare.step_matched._factor import NORMS, Norm, angular_factor, matching_factor, step_length


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def moved(w: Tensor, u: Tensor) -> Extent:
    return extent(w, w + u)


@pytest.mark.parametrize(
    ("norm", "length"),
    [("l2", 5.0), ("rms", 2.5), ("linf", 4.0), ("relative", 5.0 / sqrt(8)), ("angular", atan(1.0))],
)
def test_the_lengths_of_one_step_by_hand(norm: Norm, length: float) -> None:
    w, u = double(2.0, 2.0, 0.0, 0.0), double(0.0, 0.0, 3.0, 4.0)
    if norm == "angular":
        u = double(-2.0, 2.0, 0.0, 0.0)  # across the weight, and as long as it
    assert float(step_length(moved(w, u), norm)) == pytest.approx(length, rel=1e-15)


def test_a_weight_below_the_floor_is_taken_to_be_as_long_as_it() -> None:
    step = moved(double(0.0, 0.0, 0.0, 0.0), double(3.0, 4.0, 0.0, 0.0))
    assert float(step_length(step, "relative", floor=0.5)) == 5.0  # 5 / (0.5 sqrt(4))
    assert float(matching_factor(step, "relative", double(0.1), floor=0.5)) == pytest.approx(0.02, rel=1e-15)
    assert matching_factor(step, "relative", double(0.1)).isnan().all()


def test_the_factor_of_an_angle_by_hand() -> None:
    inward = moved(double(2.0, 0.0), double(-1.0, 1.0))  # angle(w, u) is 135 degrees
    assert float(angular_factor(inward, double(pi / 4))) == pytest.approx(1.0, rel=1e-15)
    assert float(angular_factor(inward, double(pi / 2))) == pytest.approx(2.0, rel=1e-15)
    assert float(angular_factor(inward, double(0.0))) == 0.0
    outward = moved(double(2.0, 0.0), double(1.0, 1.0))
    assert float(angular_factor(outward, double(atan(0.5)))) == pytest.approx(2.0, rel=1e-15)


def test_no_scale_reaches_the_angle_between_weight_and_step_or_turns_a_radial_one() -> None:
    w = double(2.0, 0.0)
    for u, angle in (
        ((1.0, 1.0), pi / 4),
        ((1.0, 1.0), 1.0),
        ((1.0, 0.0), 0.1),
        ((-1.0, 0.0), 0.1),
        ((-1.0, 1e-7), 0.1),
        ((0.0, 0.0), 0.1),
        ((1.0, 1.0), -0.1),
        ((-1.0, 1.0), pi),
    ):
        assert angular_factor(moved(w, double(*u)), double(angle)).isnan().all()
    assert angular_factor(moved(double(0.0, 0.0), double(1.0, 1.0)), double(0.1)).isnan().all()
    assert step_length(moved(double(0.0, 0.0), double(1.0, 1.0)), "angular").isnan().all()


@given(st.floats(0.01, 3.1), st.floats(0.01, 0.98), st.floats(-10, 10), st.floats(-10, 10))
def test_the_closed_root_turns_the_weight_by_the_angle(
    between: float, share: float, log_w: float, log_u: float
) -> None:
    w = 10**log_w * double(1.0, 0.0)
    u = 10**log_u * torch.stack([double(between).cos(), double(between).sin()]).flatten()
    angle = share * between
    step = Extent(w @ w, w @ u, u @ u, u.abs().max(), double(2.0).sum())
    end = w + angular_factor(step, double(angle)) * u
    assert float(torch.atan2(end[1], end[0])) == pytest.approx(angle, rel=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_the_scaled_step_has_the_length_at_any_scale(norm: Norm, scale: float) -> None:
    w, u = torch.randn(7, dtype=torch.float64), scale * torch.randn(7, dtype=torch.float64)
    step = Extent((w @ w)[None], (w @ u)[None], (u @ u)[None], u.abs().amax()[None], double(7.0))
    c = matching_factor(step, norm, double(0.01))
    assert float(step_length(moved(w, c * u), norm)) == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_factor_that_float32_does_not_hold_is_none(norm: Norm) -> None:
    step = Extent(double(1.0), double(0.0), double(1e-82), double(1e-41), double(2.0))  # across the weight
    assert matching_factor(step, norm, double(0.1)).isnan().all()
    assert matching_factor(step, norm, double(1e-9)).isfinite().all()


@pytest.mark.parametrize("norm", NORMS)
def test_blocks_that_did_not_move_or_moved_to_no_number_have_no_factor(norm: Norm) -> None:
    w = double(1.0, 2.0)
    for u in (double(0.0, 0.0), double(torch.nan, 1.0), double(inf, 1.0)):
        assert matching_factor(moved(w, u), norm, double(0.1)).isnan().all()
    assert matching_factor(moved(w, double(1.0, -1.0)), norm, double(-0.1)).isnan().all()
