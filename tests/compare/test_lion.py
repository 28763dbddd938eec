"""Lion against values worked out by hand, and the laws of a sign."""

import pytest
import torch
from tests.compare.walks import LOOP_OR_LIST, walked
from torch import Tensor

from truestep.compare import Lion, SignSGD


def walk(gradients: Tensor, rule: type = Lion, **settings: object) -> Tensor:
    return walked(rule, gradients, 1.0, **settings)


@LOOP_OR_LIST
def test_three_steps_by_hand(foreach: bool) -> None:
    # mix = 2, .25, -.0375; m = 1, .625, .29375. With betas exchanged, or m taken after its step, the third sign is +.
    gradients = torch.tensor([[4.0], [-0.5], [-0.7]], dtype=torch.float64)
    settings = {"lr": 0.1, "betas": (0.5, 0.75), "foreach": foreach}
    torch.testing.assert_close(walk(gradients, **settings).flatten().tolist(), [0.9, 0.8, 0.9])
    # 1 - .1 (1 + .5),  .85 - .1 (1 + .425),  .7075 - .1 (-1 + .35375)
    decayed = walk(gradients, weight_decay=0.5, **settings)
    torch.testing.assert_close(decayed.flatten().tolist(), [0.85, 0.7075, 0.772125])


@LOOP_OR_LIST
def test_the_average_by_hand(foreach: bool) -> None:
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = Lion([weight], betas=(0.5, 0.75), foreach=foreach)
    for gradient, average in [(4.0, 1.0), (-0.5, 0.625), (-0.7, 0.29375)]:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert optimizer.state[weight]["exp_avg"].item() == pytest.approx(average, rel=1e-14)


@LOOP_OR_LIST
@pytest.mark.parametrize("scale", [1e-10, 1e-3, 7.0, 1e10])
def test_the_size_of_the_loss_does_not_enter(foreach: bool, scale: float) -> None:
    gradients = torch.randn(20, 50, dtype=torch.float64)
    settings = {"lr": 0.01, "weight_decay": 0.1, "foreach": foreach}
    assert torch.equal(walk(gradients * scale, **settings), walk(gradients, **settings))


def test_every_element_moves_by_lr_and_one_without_gradient_stays() -> None:
    gradients = torch.randn(20, 50, dtype=torch.float64) * torch.logspace(-8, 8, 50, dtype=torch.float64)
    gradients[:, 0] = 0
    places = walk(gradients, lr=0.25)
    steps = places.diff(dim=0, prepend=torch.ones(1, 50, dtype=torch.float64))
    assert torch.equal(steps.abs()[:, 1:], torch.full((20, 49), 0.25, dtype=torch.float64))
    assert not steps[:, 0].any()


def test_with_equal_betas_it_is_sign_sgd_with_momentum() -> None:
    gradients = torch.randn(30, 40, dtype=torch.float64)
    settings = {"lr": 0.1, "weight_decay": 0.2}
    lion = walk(gradients, betas=(0.8, 0.8), **settings)
    assert torch.equal(lion, walk(gradients, rule=SignSGD, momentum=0.8, **settings))
