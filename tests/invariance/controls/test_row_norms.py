"""Norms of rows, whatever the layout; of parts on several ranks see test_ranks."""

import pytest
import torch
from tests.cases import DTYPES

from truestep.invariance.controls._row_norms import part_of_column, row_norms, whole_column


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64])
def test_they_are_the_norms_of_the_rows_in_float64(dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 2, 2).to(dtype).contiguous(memory_format=torch.channels_last)
    wide = x.to(torch.complex128) if dtype.is_complex else x.double()
    (norms,) = row_norms([x], "unit")
    torch.testing.assert_close(norms, torch.stack([row.norm() for row in wide]).real.double(), rtol=1e-14, atol=0)
    (norm,) = row_norms([x], "tensor")
    torch.testing.assert_close(norm, wide.norm().real.double().reshape(1), rtol=1e-14, atol=0)


def test_no_units_and_no_elements_have_their_norms() -> None:
    assert [norm.tolist() for norm in row_norms([torch.ones(0, 3), torch.ones(2, 0)], "unit")] == [[], [0.0, 0.0]]


def test_a_tensor_on_one_rank_is_its_own_part() -> None:
    x = torch.randn(4, 3)
    (norms,) = row_norms([x], "unit")
    assert torch.equal(whole_column(norms, x, "unit"), norms)
    assert torch.equal(part_of_column(norms, x, "unit"), norms)
