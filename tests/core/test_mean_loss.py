"""A scalar is its own mean; losses and weights give the weighted one."""

from __future__ import annotations

import pytest
import torch

from truestep.core._mean_loss import mean_loss


def test_a_scalar_has_no_weight() -> None:
    loss, weight = mean_loss(torch.tensor([2.0]))
    assert (loss.shape, weight) == ((), None)


def test_a_loss_without_weight_counts_for_nothing_even_if_it_is_nan() -> None:
    loss, weight = mean_loss((torch.tensor([1.0, torch.nan, 4.0]), torch.tensor([2.0, 0.0, 1.0])))
    assert (float(loss), float(weight)) == (2.0, 3.0)


@pytest.mark.parametrize("output", [3.0, torch.ones(2), (torch.ones(2), torch.ones(3)), (1.0, 2.0)])
def test_anything_else_is_refused(output) -> None:
    with pytest.raises(ValueError, match="`loss_fn` must give"):
        mean_loss(output)
