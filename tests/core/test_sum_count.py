"""A mean loss survives any cut of the batch when it is kept as a sum and a count."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import DTYPES

from truestep.core import sum_count


def test_the_hand_worked_weighted_mean() -> None:
    made = sum_count(torch.tensor([1.0, 2.0, 8.0]), torch.tensor([2.0, 0.0, 0.5]))
    assert (made.loss, made.weight, made.count, made.mean) == (6.0, 2.5, 2.0, 2.4)


def test_an_ignored_term_does_not_count_even_where_its_loss_is_nan() -> None:
    losses = torch.tensor([3.0, torch.nan, torch.inf])
    assert sum_count(losses, torch.tensor([1.0, 0.0, 0.0])).mean == 3.0


def test_the_mean_of_means_would_be_wrong_where_micro_batches_differ_in_size() -> None:
    losses = torch.tensor([1.0, 1.0, 1.0, 9.0])
    parts = [sum_count(losses[:3]), sum_count(losses[3:])]
    assert (parts[0] + parts[1]).mean == 3.0
    assert (parts[0].mean + parts[1].mean) / 2 == 5.0


@given(power=st.integers(-10, 10), dtype=st.sampled_from(DTYPES[2:]))
def test_the_mean_scales_with_the_loss_and_not_with_the_weights(power: int, dtype: torch.dtype) -> None:
    losses, weights, c = torch.rand(7, dtype=dtype), torch.rand(7), 10.0**power
    mean = sum_count(losses.double(), weights).mean
    torch.testing.assert_close(sum_count(losses.double() * c, weights.double() / c).mean, c * mean)


@pytest.mark.parametrize("dtype", DTYPES)
def test_terms_of_every_float_format_are_summed_in_float64(dtype: torch.dtype) -> None:
    made = sum_count(torch.full((5000,), 1.5, dtype=dtype))
    assert (made.loss, made.mean, made.loss.dtype) == (7500.0, 1.5, torch.float64)


def test_no_terms_have_no_mean() -> None:
    assert sum_count(torch.empty(0)).mean.isnan()


def test_it_keeps_no_graph() -> None:
    assert not sum_count(torch.ones(2, requires_grad=True) * 2).loss.requires_grad
