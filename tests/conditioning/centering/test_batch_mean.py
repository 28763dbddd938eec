"""The mean of a batch is the mean of all that the batch holds; over ranks see test_batch_center_ranks."""

import pytest
import torch
from torch import Tensor

from truestep.conditioning.centering import batch_mean


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 4, 2)])
def test_it_is_the_mean_over_all_but_the_channels(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    over = [0, *range(2, len(shape))]
    torch.testing.assert_close(batch_mean(x), x.mean(over), rtol=1e-14, atol=1e-14)


def test_a_sum_beyond_the_range_of_float16_has_a_mean() -> None:
    assert batch_mean(torch.ones(70_000, 1, dtype=torch.float16)).tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_it_is_taken_in_float32_at_least(dtype: torch.dtype) -> None:
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert batch_mean(torch.ones(2, 3, dtype=dtype)).dtype == expected


def test_its_gradients_are_right_twice() -> None:
    def square(x: Tensor) -> Tensor:
        return batch_mean(x).square()

    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(square, (x,))
    assert torch.autograd.gradgradcheck(square, (x,))
