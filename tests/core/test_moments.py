"""First and second moments as sums."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import DTYPES

from truestep.core import moments


def test_the_hand_worked_moments() -> None:
    made = moments(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
    assert (made.n, made.a.tolist(), made.aa.tolist()) == (2.0, [4.0, 2.0], [[10.0, 6.0], [6.0, 4.0]])
    assert (made.mean.tolist(), made.covariance.tolist()) == ([2.0, 1.0], [[1.0, 1.0], [1.0, 1.0]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_covariance_is_torch_s_population_covariance(dtype: torch.dtype) -> None:
    x = torch.randn(4, 6, 3).to(dtype)
    reference = torch.cov(x.reshape(-1, 3).double().T, correction=0)
    torch.testing.assert_close(moments(x).covariance, reference, rtol=1e-12, atol=1e-12)


@given(power=st.integers(-10, 10))
def test_the_covariance_scales_with_the_square(power: int) -> None:
    x, c = torch.randn(9, 3, dtype=torch.float64), 10.0**power
    torch.testing.assert_close(moments(c * x).covariance / c**2, moments(x).covariance)


def test_the_covariance_does_not_see_a_shift() -> None:
    x = torch.randn(9, 3, dtype=torch.float64)
    torch.testing.assert_close(moments(x + 100).covariance, moments(x).covariance, rtol=1e-9, atol=1e-9)


def test_one_sample_may_come_without_a_batch_dimension() -> None:
    assert moments(torch.tensor([2.0, 3.0])).aa.tolist() == [[4.0, 6.0], [6.0, 9.0]]


def test_it_keeps_no_graph() -> None:
    assert not moments(torch.ones(2, 2, requires_grad=True)).aa.requires_grad
