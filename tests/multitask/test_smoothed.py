"""A running mean that a task enters with its first value, and that waits for a task that is away."""

import pytest
import torch
from torch import Tensor

from truestep.multitask._smoothed import check_smoothing, smoothed, unknown

ALL = torch.tensor([True, True])


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_first_value_is_taken_as_it_is() -> None:
    assert smoothed(ALL, row(3.0, -2.0), unknown(("a", "b")), 0.9).tolist() == [3.0, -2.0]


def test_later_values_are_mixed_in() -> None:
    torch.testing.assert_close(smoothed(ALL, row(3.0, -2.0), row(1.0, 0.0), 0.9), row(1.2, -0.2), rtol=1e-15, atol=0)


def test_without_smoothing_the_newest_value_stands_exactly() -> None:
    assert smoothed(ALL, row(0.1, 0.3), row(1e300, -7.0), 0).tolist() == [0.1, 0.3]


def test_a_task_that_is_away_keeps_its_value_and_one_never_seen_stays_unknown() -> None:
    mean = smoothed(torch.tensor([False, False]), row(torch.nan, 5.0), row(1.0, torch.nan), 0.9)
    assert mean[0] == 1.0
    assert mean[1].isnan()


@pytest.mark.parametrize("smoothing", [-0.1, 1, 1.0, torch.inf, torch.nan])
def test_a_smoothing_that_forgets_nothing_or_grows_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"`smoothing` must be at least 0 and below 1.*found"):
        check_smoothing(smoothing)
