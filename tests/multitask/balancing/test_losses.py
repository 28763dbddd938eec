"""A task's loss is one mean over the labels that are there, and what does not fit is refused by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truestep.multitask.balancing._losses import check_names, check_shapes, mean_loss


@settings(max_examples=25)
@given(st.integers(-10, 10), st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_mean_is_over_the_labels_that_are_there_whatever_stands_at_the_others(
    power: int, there: list[bool]
) -> None:
    keep = torch.tensor(there)
    loss = 10.0**power * torch.rand(len(there), dtype=torch.float64)
    found, number = mean_loss(torch.where(keep, loss, torch.nan), keep)
    expected = loss[keep].mean() if any(there) else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    assert number == any(there)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float16, torch.int64, torch.uint8])
def test_a_mask_is_true_or_one_or_anything_but_zero(dtype: torch.dtype) -> None:
    loss, mask = torch.tensor([[1.0, 5.0], [torch.inf, 9.0]]), torch.tensor([[1, 1], [0, 3]]).to(dtype)
    assert mean_loss(loss, mask)[0].item() == 5.0


def test_the_gradient_of_a_masked_mean_is_that_of_the_mean_over_the_labels() -> None:
    loss = torch.tensor([1.0, torch.nan, 4.0, torch.inf], requires_grad=True)
    mean_loss(loss, torch.tensor([True, False, True, False]))[0].backward()
    assert loss.grad.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_no_label_is_a_zero_with_a_gradient_of_zero() -> None:
    loss = torch.full((3,), torch.nan, requires_grad=True)
    mean, number = mean_loss(loss, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert (mean.item(), number.item()) == (0.0, 0.0)
    assert loss.grad.tolist() == [0.0] * 3


def test_without_a_mask_a_scalar_stays_and_losses_a_sample_are_averaged() -> None:
    assert mean_loss(torch.tensor(2.5), None) == (2.5, 1)
    assert mean_loss(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), None) == (3.0, 1)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_that_half_precision_does_not_hold_are_taken_in_float32(dtype: torch.dtype, masked: bool) -> None:
    loss = torch.full((4096,), 40.0, dtype=dtype)
    found, _ = mean_loss(loss, torch.ones(4096, dtype=torch.bool) if masked else None)
    assert found.dtype == torch.float32
    assert found.item() == 40.0
    assert mean_loss(loss[0], None)[0].dtype == torch.float32
    assert mean_loss(loss.double(), None)[0].dtype == torch.float64


def test_an_unknown_name_is_refused_with_the_argument_and_the_tasks() -> None:
    check_names({"b": 1}, ("a", "b"), "mask")
    check_names({}, ("a", "b"), "mask")
    with pytest.raises(ValueError, match="`mask` names 'x', which is no task of this balancer: a, b"):
        check_names(["a", "x", "y"], ("a", "b"), "mask")


@pytest.mark.parametrize(
    ("loss", "keep", "found"),
    [
        (torch.ones(4), torch.ones(3), r"shape \(3,\), its task losses of shape \(4,\)"),
        (torch.ones(4, 1), torch.ones(4), r"shape \(4,\), its task losses of shape \(4, 1\)"),
        (torch.tensor(1.0), torch.ones(4), r"shape \(4,\), its task losses of shape \(\)"),
        (torch.tensor(1.0), torch.tensor(True), r"shape \(\), its task losses of shape \(\)"),
        (None, torch.ones(4), r"shape \(4,\), its task no loss"),
    ],
)
def test_a_mask_has_one_entry_a_loss(loss: Tensor | None, keep: Tensor, found: str) -> None:
    with pytest.raises(ValueError, match=f"`mask` of 'a' has {found}: give the losses per sample"):
        check_shapes({"b": torch.ones(4)} if loss is None else {"a": loss, "b": loss}, {"a": keep})


def test_masks_that_fit_and_none_at_all_are_fine() -> None:
    check_shapes({"a": torch.ones(2, 3), "b": torch.tensor(1.0)}, {"a": torch.ones(2, 3)})
    check_shapes({"a": torch.tensor(1.0)}, {})


def test_no_row_at_all_counts_as_absent() -> None:
    loss, number = mean_loss(torch.zeros(0, requires_grad=True), None)
    assert (loss.item(), number) == (0.0, 0)
