"""The directions that S does not see are found, whatever the sizes of its rows and columns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from truestep.invariance.symmetries._null_space import null_space

SEEN = torch.tensor([[1.0, 1.0, 0.0, -1.0], [0.0, 1.0, 2.0, 0.0]], dtype=torch.float64)  # orthogonal to HIDDEN
HIDDEN = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, -2.0, 1.0, 1.0]], dtype=torch.float64)


def rows(number: int, columns: Tensor) -> Tensor:
    return torch.randn(number, 2, dtype=torch.float64) @ SEEN / columns


@pytest.mark.parametrize("spread", [0, 6])
def test_the_space_is_found_at_columns_that_differ_by_decades(spread: int) -> None:
    columns = torch.logspace(0, spread, 4, dtype=torch.float64)
    found = null_space(rows(10, columns))
    assert found.dimension == 2
    back = found.directions[:2] / columns
    assert torch.linalg.matrix_rank(torch.cat([back / back.norm(dim=1, keepdim=True), HIDDEN]), rtol=1e-8) == 2


def test_rows_of_any_size_count_alike() -> None:
    s = rows(10, torch.ones(4, dtype=torch.float64))
    sizes = torch.logspace(-8, 8, 10, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(null_space(s * sizes).values[2:], null_space(s).values[2:], rtol=0.2, atol=0)


def test_rows_that_are_missing_count_as_unseen() -> None:
    assert (null_space(torch.randn(2, 5, dtype=torch.float64)).values[:3] == 0).all()


def test_a_full_rank_has_no_dimension() -> None:
    assert null_space(torch.randn(20, 5, dtype=torch.float64)).dimension == 0
