"""Log losses: the ceiling, the end of the range, and the mean that they make."""

import math

import pytest
import torch

from truestep.compare.statistics import geometric_interval, log_losses


def test_what_diverged_is_at_the_ceiling() -> None:
    losses = torch.tensor([math.inf, math.nan, 1e9, 100.0, 1.0])
    assert log_losses(losses, 100).exp().tolist() == pytest.approx([100, 100, 100, 100, 1])


def test_a_loss_of_zero_has_a_logarithm() -> None:
    assert log_losses(torch.zeros(1), 1e3).exp().tolist() == pytest.approx([1e-9])


def test_units_shift_the_logarithm() -> None:
    losses = torch.rand(8, dtype=torch.float64) + 0.1
    torch.testing.assert_close(log_losses(7 * losses, 700), log_losses(losses, 100) + math.log(7))


@pytest.mark.parametrize("ceiling", [0.0, -1.0, math.inf, math.nan])
def test_a_ceiling_is_positive(ceiling: float) -> None:
    with pytest.raises(ValueError, match="`ceiling` must be positive"):
        log_losses(torch.ones(1), ceiling)


def test_negative_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="`losses` must not be negative for a log scale, found -2"):
        log_losses(torch.tensor([1.0, -2.0, math.nan]), 10)


def test_the_geometric_mean_of_1_10_100_is_10_whatever_the_unit() -> None:
    found = geometric_interval(torch.tensor([1.0, 10.0, 100.0]), 1e3)
    assert found.mean == pytest.approx(10)
    assert found.low * found.high == pytest.approx(100)  # as far below as above, by ratio
    in_other_unit = geometric_interval(torch.tensor([2.0, 20.0, 200.0]), 2e3)
    assert (in_other_unit.low, in_other_unit.high) == pytest.approx((2 * found.low, 2 * found.high))


def test_a_diverged_seed_counts_as_the_ceiling() -> None:
    assert geometric_interval(torch.tensor([1.0, math.inf]), 100).mean == pytest.approx(10)
