"""The mean losses, by hand."""

import math

import pytest
import torch
from torch import nn

from truestep.compare.problems import binary_loss, cross_entropy_loss, squared_loss, summed_squared_loss

IDENTITY = nn.Identity()


def test_cross_entropy_is_minus_the_log_of_the_target_s_share() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]]])  # shares 1/4 and 3/4; 1/2 and 1/2
    expected = -(math.log(0.75) + math.log(0.5)) / 2
    assert cross_entropy_loss(IDENTITY, (logits, torch.tensor([[1, 0]]))).item() == pytest.approx(expected, rel=1e-6)


def test_binary_loss_is_minus_the_log_of_the_target_s_share() -> None:
    batch = torch.tensor([[math.log(3.0)]]), torch.tensor([[0.0]])
    assert binary_loss(IDENTITY, batch).item() == pytest.approx(math.log(4.0), rel=1e-6)


def test_the_summed_squared_loss_is_the_mean_one_times_the_outputs() -> None:
    batch = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    torch.testing.assert_close(summed_squared_loss(IDENTITY, batch), 12 * squared_loss(IDENTITY, batch))
