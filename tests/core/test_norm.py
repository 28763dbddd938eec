"""The norm of many tensors as one, and one factor on all of them, whatever they are made of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truestep.core import scale_, squared_norm

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


def mixed() -> list[Tensor]:
    torch.manual_seed(0)
    dense = [torch.randn(5, 3).to(dtype) for dtype in DTYPES]
    rows = torch.tensor([[1, 1, 4]])  # row 1 stands there twice
    twice = torch.sparse_coo_tensor(rows, torch.randn(3, 2), (6, 2), check_invariants=True)
    return [*dense, twice, torch.randn(4, 6).t(), torch.zeros(0)]


def vector(tensors: list[Tensor]) -> Tensor:
    dense = [x.to_dense() if x.is_sparse else x for x in tensors]
    return torch.cat([(torch.view_as_real(x) if x.is_complex() else x).double().flatten() for x in dense])


def test_the_squared_norm_is_that_of_one_long_vector() -> None:
    torch.testing.assert_close(squared_norm(mixed()), vector(mixed()).square().sum(), rtol=1e-14, atol=0)


def test_no_tensors_have_norm_zero() -> None:
    assert squared_norm([]) == 0


@settings(deadline=None, max_examples=30)
@given(exponent=st.integers(-40, 15), dtype=st.sampled_from(DTYPES[1:]))
def test_a_power_of_two_scales_the_norm_without_rounding(exponent: int, dtype: torch.dtype) -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(exponent + 50)).to(dtype)
    scaled = [x * 2.0**exponent]
    assert squared_norm(scaled) == squared_norm([x]) * 4.0**exponent


def test_a_float32_sum_is_not_accurate_enough() -> None:
    x = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    exact = x.double().square().sum()
    assert abs(squared_norm([x]) / exact - 1) < 1e-12
    assert abs(torch.linalg.vector_norm(x).double() ** 2 / exact - 1) > 1e-8


def test_nan_and_inf_are_not_lost() -> None:
    assert squared_norm([torch.ones(2), torch.tensor([torch.nan])]).isnan()
    assert squared_norm([torch.ones(2), torch.tensor([-torch.inf])]).isinf()


def test_one_factor_multiplies_all_in_their_own_memory() -> None:
    tensors, before = mixed(), vector(mixed())
    places = [x._values().data_ptr() if x.is_sparse else x.data_ptr() for x in tensors]
    scale_(tensors, torch.tensor(0.25, dtype=torch.float64))
    assert torch.equal(vector(tensors), before * 0.25)
    assert places == [x._values().data_ptr() if x.is_sparse else x.data_ptr() for x in tensors]


@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_a_product_is_rounded_once(dtype: torch.dtype) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1)).to(dtype)
    third = torch.tensor(1 / 3, dtype=torch.float64)
    scaled = x.clone()
    scale_([scaled], third)
    error = (scaled.double() - x.double() * third).abs() / x.double().abs().clamp_min(torch.finfo(dtype).tiny * 4)
    half = dtype in (torch.float16, torch.bfloat16)  # the factor itself is rounded to float32 at most
    assert error.max() <= (0.5 if half else 1.1) * torch.finfo(dtype).eps * 1.001
