"""The sums of a step, by hand."""

import pytest
import torch

from truestep.compare.step_matched._extent import extent, joined, num_rows, real


def test_the_sums_of_each_unit_worked_out_by_hand() -> None:
    before, after = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[3.0, 1.0], [1.0, 4.0]])
    moved = extent(before, after, units=True)
    assert moved.ww.tolist() == [25.0, 4.0]
    assert moved.wu.tolist() == [-12.0, 4.0]
    assert moved.uu.tolist() == [9.0, 5.0]
    assert moved.largest.tolist() == [3.0, 2.0]
    assert moved.count.tolist() == [2.0, 2.0]


def test_units_seen_as_one_are_the_tensor() -> None:
    before, after = torch.randn(2, 5, 3, dtype=torch.float64)
    rows, whole = extent(before, after, units=True), extent(before, after)
    together = joined([rows], [5])
    for name in ("ww", "wu", "uu", "largest", "count"):
        torch.testing.assert_close(getattr(together, name), getattr(whole, name), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_difference_of_few_digits_is_exact(dtype: torch.dtype) -> None:
    before, after = torch.randn(2, 40).to(dtype)
    difference = after.double() - before.double()
    torch.testing.assert_close(extent(before, after).uu, difference.square().sum()[None], rtol=1e-15, atol=0)


def test_a_complex_weight_counts_its_real_and_imaginary_parts() -> None:
    moved = extent(torch.zeros(1, dtype=torch.complex64), torch.tensor([3.0 - 4.0j]))
    assert [float(x) for x in (moved.uu, moved.largest, moved.count)] == [25.0, 4.0, 2.0]
    assert real(torch.ones(2, dtype=torch.complex64)).shape == (2, 2)


def test_a_tensor_of_fewer_than_two_dimensions_is_one_unit() -> None:
    assert [num_rows(torch.zeros(shape), units=True) for shape in ((), (4,), (4, 1), (4, 2, 2))] == [1, 1, 4, 4]
    assert extent(torch.tensor(1.0), torch.tensor(3.0), units=True).uu.tolist() == [4.0]
