"""The fit on synthetic curves gives back what was put in, and its intervals are as wide as they say."""

import math

import pytest
import torch
from torch import Tensor

from truestep.compare.speed._fit import Fit, Grid, fit_speed, nearest, trained

STEPS = tuple(range(10, 210, 10))
TIME = torch.tensor([0, *STEPS], dtype=torch.float64)
DECADES = torch.arange(-1, 1.6, 0.25, dtype=torch.float64)


def level(time: Tensor) -> Tensor:
    """A log loss after so long at speed 1."""
    return 0.8 - 1.2 * torch.log1p(time / 50)


def curves(seeds: int = 8, noise: float = 0.0) -> Grid:
    y = level(TIME * 10 ** DECADES[:, None])[:, None].expand(-1, seeds, -1)
    return Grid(y + noise * torch.randn(len(DECADES), seeds, 1, dtype=torch.float64), DECADES, STEPS)


def target(multiplier: float, *, seeds: int = 8, lag: float = 0.0, noise: float = 0.0) -> Tensor:
    clean = level((TIME[1:] - lag).clamp_min(0) * multiplier).expand(seeds, -1)
    return clean + noise * torch.randn(seeds, 1, dtype=torch.float64)


def fitted(multiplier: float, *, lag: float = 0.0, largest_lag: float = 0.0) -> Fit:
    b = target(multiplier, lag=lag)
    return fit_speed(curves(), b, b, largest_lag=largest_lag)


@pytest.mark.parametrize("multiplier", [0.2, 1.0, 1.57, 8.108, 10.0])
def test_the_multiplier_is_found_on_the_knots_and_between_them(multiplier: float) -> None:
    fit = fitted(multiplier)
    assert fit.multiplier.mean == pytest.approx(multiplier, rel=2e-3)
    assert fit.residual.mean < 1e-3
    assert not fit.at_edge


@pytest.mark.parametrize("lag", [9.0, 5.3, -4.0])
def test_a_lag_is_found_with_the_multiplier(lag: float) -> None:
    fit = fitted(4.0, lag=lag, largest_lag=math.copysign(9, lag))
    assert fit.lag == pytest.approx(lag, abs=0.1)
    assert fit.multiplier.mean == pytest.approx(4.0, rel=5e-3)


def test_a_lag_is_not_taken_to_leave_out_the_end() -> None:
    b = target(4.0)
    b[:, -1] += 1.0  # A's curve, delayed by less than 0, is not known there
    fit = fit_speed(curves(), b, b, largest_lag=-9.0)
    assert (fit.lag, fit.residual.mean) == (0.0, pytest.approx(1 / math.sqrt(len(STEPS)), rel=0.01))


def test_a_lag_is_sought_no_further_than_the_momentum_goes() -> None:
    beyond, wrong_way = fitted(4.0, lag=14.0, largest_lag=9.0), fitted(4.0, lag=-4.0, largest_lag=9.0)
    assert (beyond.lag, wrong_way.lag) == (9.0, 0.0)
    assert min(beyond.residual.mean, wrong_way.residual.mean) > 0.005


def test_what_no_multiplier_takes_away_is_the_residual() -> None:
    """B's loss is A's at 4 times the speed, and by 10 % higher in the first half, lower in the second."""
    sign = torch.where(torch.arange(len(STEPS)) < 10, 1.0, -1.0).double()
    b = target(4.0) - 0.1 * sign
    fit = fit_speed(curves(), b, b)
    assert fit.residual.mean == pytest.approx(0.1, abs=0.035)  # the multiplier takes what it can
    assert fit.early > 0.05
    assert fit.late < -0.05
    assert float(((fit.fitted - b) ** 2).mean().sqrt()) == pytest.approx(fit.residual.mean)


def test_a_multiplier_beyond_the_grid_is_at_its_edge() -> None:
    assert fitted(100.0).at_edge
    assert fitted(0.01).at_edge


def test_distances_are_as_if_worked_out_by_hand() -> None:
    b = target(1.0)
    fit = fit_speed(curves(), b, b + 0.1, at_one=b + 0.5)
    assert (fit.at_one.mean, fit.floor) == pytest.approx((0.5, 0.1))
    assert fit.explained == 1
    assert math.isnan(fit_speed(curves(), b, b + 0.1).explained)  # nothing above the floor


def test_the_unit_of_the_loss_has_no_say() -> None:
    grid, b = curves(noise=0.02), target(3.0, noise=0.02)
    other = Grid(grid.y + 5, DECADES, STEPS)
    here, there = fit_speed(grid, b, b), fit_speed(other, b + 5, b + 5)
    assert there.multiplier.mean == pytest.approx(here.multiplier.mean)
    assert there.residual.high == pytest.approx(here.residual.high)


def test_seeds_that_agree_leave_no_width() -> None:
    fit = fitted(3.0)
    assert fit.multiplier.high - fit.multiplier.low < 1e-9


def test_the_interval_holds_the_multiplier_in_95_of_100() -> None:
    near = slice(3, 8)  # multipliers
    grids = [Grid(curves(noise=0.02).y[near], DECADES[near], STEPS) for _ in range(120)]
    found = [fit_speed(grid, target(2.0, noise=0.02), target(2.0)).multiplier for grid in grids]
    share = sum(not each.excludes(2.0) for each in found) / len(found)
    assert 0.9 <= share <= 0.99
    assert all(each.low < each.mean < each.high for each in found)


def test_multipliers_at_which_a_run_diverged_are_left_out() -> None:
    losses = torch.ones(6, 2, 3, dtype=torch.float64)
    losses[4, 1, 2] = math.inf
    losses[0, 0, 0] = math.nan
    assert trained(losses) == slice(1, 4)
    assert trained(torch.full((2, 1, 1), math.inf, dtype=torch.float64)) == slice(0, 0)


def test_the_minimum_lies_between_the_points_of_the_grid() -> None:
    x = torch.arange(7.0, dtype=torch.float64)
    found = nearest(((x - 2.4) ** 2 + 0.5)[None, None])
    assert (float(found.place), float(found.square)) == pytest.approx((2.4, 0.5))
    assert nearest(((x + 1) ** 2)[None, None]).at_edge.all()


def test_one_seed_is_too_few() -> None:
    with pytest.raises(ValueError, match="`seeds` must be at least 2"):
        fit_speed(curves(1), target(2.0, seeds=1), target(2.0, seeds=1))
