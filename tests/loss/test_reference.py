"""The reference of a loss's unit: the first good windows, and then no more."""

import pytest
import torch

from truestep.core import SumCount
from truestep.loss._reference import WARM_UP, loss_unit, refer


def window(loss: float, weight: float = 1.0) -> SumCount:
    return SumCount(*torch.tensor([loss * weight, weight, weight], dtype=torch.float64))


def test_it_is_the_mean_over_the_terms_of_the_first_windows() -> None:
    reference = None
    for i in range(WARM_UP + 5):
        reference = refer(reference, window(float(i), weight=i + 1.0))
    first = range(1, WARM_UP + 1)  # a loss of exactly 0 has no unit and is left out
    assert reference.count == WARM_UP
    assert reference.mean == sum(i * (i + 1) for i in first) / sum(i + 1 for i in first)


@pytest.mark.parametrize("bad", [window(torch.nan), window(torch.inf), window(0.0), window(3.0, weight=0.0)])
def test_a_bad_window_leaves_it_as_it_was(bad: SumCount) -> None:
    reference = refer(refer(None, window(2.0)), bad)
    assert (reference.loss, reference.weight, reference.count) == (2, 1, 1)
    assert loss_unit(refer(None, bad), window(7.0)) == 7


def test_the_unit_is_of_the_windows_before_and_positive() -> None:
    assert loss_unit(None, window(-3.0)) == 3
    assert loss_unit(refer(None, window(-4.0, weight=2.0)), window(1.0)) == 4
