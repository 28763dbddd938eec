from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truestep.compare.rank import expected_best_of


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4), st.integers(1, 4))
def test_it_is_the_mean_over_all_draws_of_their_least(losses: list[float], draws: int) -> None:
    outcomes = [min(drawn) for drawn in product(losses, repeat=draws)]
    expected = expected_best_of(torch.tensor(losses, dtype=torch.float64), draws)
    assert float(expected) == pytest.approx(sum(outcomes) / len(outcomes), abs=1e-9)


def test_one_draw_is_the_mean_and_many_are_the_least() -> None:
    losses = torch.tensor([3.0, 1.0, 8.0], dtype=torch.float64)
    assert float(expected_best_of(losses, 1)) == 4.0
    assert float(expected_best_of(losses, 200)) == pytest.approx(1.0)


def test_no_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="`draws` must be at least 1, found 0"):
        expected_best_of(torch.ones(2, dtype=torch.float64), 0)
