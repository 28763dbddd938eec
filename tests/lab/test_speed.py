"""One seed's speed: curves that are another's, faster."""

import pytest
import torch
from torch import Tensor

from truestep.lab._speed import speed_of

STEPS = range(10, 310, 10)
MULTIPLIERS = tuple(10 ** (k / 8) for k in range(-4, 9))


def curve(c: float) -> Tensor:
    """A loss that falls by a power law in c t."""
    return (1 + c * torch.tensor([*STEPS], dtype=torch.float64) / 20) ** -1.5


A = torch.stack([curve(c) for c in MULTIPLIERS])


@pytest.mark.parametrize("true", [0.7, 1.0, 2.345])
def test_a_curve_that_is_faster_by_a_number_has_that_speed_and_leaves_nothing(true: float) -> None:
    found = speed_of(1.0, A, curve(true), MULTIPLIERS, STEPS)
    assert found.multiplier == pytest.approx(true, rel=1e-3)
    assert found.residual < 1e-3
    assert found.at_one == pytest.approx((curve(1.0) / curve(true)).log().square().mean().sqrt().item())
    assert not found.at_edge


def test_twice_the_loss_throughout_is_no_speed() -> None:
    assert speed_of(1.0, A, 2 * curve(1.0), MULTIPLIERS, STEPS).residual > 0.05


def test_a_speed_beyond_the_multipliers_is_at_the_edge() -> None:
    assert speed_of(1.0, A, curve(50.0), MULTIPLIERS, STEPS).at_edge


def test_multipliers_at_which_the_run_diverged_are_left_out_and_a_loss_of_zero_is_solved() -> None:
    losses = A.clone()
    losses[-2:] = torch.inf
    losses[0, -1] = 0.0
    assert speed_of(1.0, losses, curve(2.0), MULTIPLIERS, STEPS).multiplier == pytest.approx(2.0, rel=1e-2)
