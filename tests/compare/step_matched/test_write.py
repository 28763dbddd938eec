"""Weights written back."""

import pytest
import torch

from truestep.compare.step_matched._write import write_


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_a_weight_stands_at_the_factor_s_multiple_and_nan_changes_no_bit(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    before = torch.randn(shape).to(dtype)
    after = before + torch.randn(shape).to(dtype)
    rows = shape[0] if len(shape) > 1 else 1
    x = after.clone()
    write_(x, before, torch.full((rows,), torch.nan, dtype=torch.float64))
    assert torch.equal(x, after)
    write_(x, before, torch.full((rows,), 3.0, dtype=torch.float64))
    wide = torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(x, (before.to(wide) + 3 * (after.to(wide) - before.to(wide))).to(dtype))


def test_decay_takes_its_share_of_the_weight_before_also_of_rows_left_alone() -> None:
    x = torch.tensor([[3.0], [3.0]])
    write_(x, torch.tensor([[2.0], [2.0]]), torch.tensor([2.0, torch.nan], dtype=torch.float64), decay=0.25)
    assert x.tolist() == [[3.5], [2.5]]


def test_where_the_step_was_skipped_no_bit_changes() -> None:
    x = torch.tensor([3.0])
    write_(x, torch.tensor([2.0]), torch.tensor([2.0], dtype=torch.float64), decay=0.25, skipped=torch.ones(1))
    assert x.tolist() == [3.0]
