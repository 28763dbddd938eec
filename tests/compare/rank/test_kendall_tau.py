import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from truestep.compare.rank import kendall_tau


def as_losses(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_of_four_optimizers_one_pair_changed_places() -> None:
    assert kendall_tau(as_losses(1, 2, 3, 4), as_losses(10, 30, 20, 40)) == pytest.approx((5 - 1) / 6)


def test_the_same_order_gives_one_and_the_reversed_minus_one() -> None:
    losses = as_losses(0.3, 7, 2, 5)
    assert kendall_tau(losses, losses.exp()) == 1
    assert kendall_tau(losses, -losses) == -1


def test_tied_pairs_count_on_neither_side() -> None:
    assert kendall_tau(as_losses(1, 1, 2), as_losses(1, 2, 3)) == pytest.approx(2 / math.sqrt(2 * 3))


def test_where_all_are_equal_there_is_no_order() -> None:
    assert math.isnan(kendall_tau(as_losses(1, 1), as_losses(1, 2)))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=8))
def test_it_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = (as_losses(*values) for values in zip(*pairs, strict=True))
    expected = kendalltau(first.numpy(), second.numpy()).statistic
    assert kendall_tau(first, second) == pytest.approx(expected, nan_ok=True)
