"""SignSGD and Signum against values worked out by hand, and the laws of a sign."""

import pytest
import torch
from tests.compare.walks import LOOP_OR_LIST, walked
from torch import Tensor

from truestep.compare import SignSGD


def walk(gradients: Tensor, start: Tensor | float = 1.0, **settings: object) -> Tensor:
    return walked(SignSGD, gradients, start, **settings)


@LOOP_OR_LIST
def test_three_steps_by_hand(foreach: bool) -> None:
    gradients = torch.tensor([[4.0], [-1.0], [-4.0]], dtype=torch.float64)
    plain = walk(gradients, lr=0.1, foreach=foreach)
    torch.testing.assert_close(plain.flatten().tolist(), [0.9, 1.0, 1.1])
    # m = 2, 0.5, -1.75: the second step still goes where the first gradient pointed
    signum = walk(gradients, lr=0.1, momentum=0.5, foreach=foreach)
    torch.testing.assert_close(signum.flatten().tolist(), [0.9, 0.8, 0.9])


@LOOP_OR_LIST
def test_three_steps_with_weight_decay_by_hand(foreach: bool) -> None:
    gradients = torch.tensor([[4.0], [-1.0], [-4.0]], dtype=torch.float64)
    found = walk(gradients, lr=0.1, momentum=0.5, weight_decay=0.5, foreach=foreach)
    # 1 - .1 (1 + .5),  .85 - .1 (1 + .425),  .7075 - .1 (-1 + .35375)
    torch.testing.assert_close(found.flatten().tolist(), [0.85, 0.7075, 0.772125])


@LOOP_OR_LIST
@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("scale", [1e-10, 1e-3, 7.0, 1e10])
def test_the_size_of_the_loss_does_not_enter(foreach: bool, momentum: float, scale: float) -> None:
    gradients = torch.randn(20, 50, dtype=torch.float64)
    settings = {"lr": 0.01, "momentum": momentum, "weight_decay": 0.1, "foreach": foreach}
    assert torch.equal(walk(gradients * scale, **settings), walk(gradients, **settings))


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_every_element_moves_by_lr_and_one_without_gradient_stays(momentum: float) -> None:
    gradients = torch.randn(20, 50, dtype=torch.float64) * torch.logspace(-8, 8, 50, dtype=torch.float64)
    gradients[:, 0] = 0
    start = torch.zeros(50, dtype=torch.float64)
    steps = walk(gradients, start, lr=0.25, momentum=momentum).diff(dim=0, prepend=start[None])
    assert torch.equal(steps.abs()[:, 1:], torch.full((20, 49), 0.25, dtype=torch.float64))
    assert not steps[:, 0].any()


def test_the_signs_are_those_of_sgd_s_momentum_buffer() -> None:
    gradients = torch.randn(30, 40, dtype=torch.float64)
    start = torch.zeros(40, dtype=torch.float64)
    steps = walk(gradients, start, lr=1.0, momentum=0.8).diff(dim=0, prepend=start[None])
    weight = torch.nn.Parameter(start)
    sgd = torch.optim.SGD([weight], lr=1.0, momentum=0.8)
    for gradient, step in zip(gradients, steps, strict=True):
        weight.grad = gradient
        sgd.step()
        assert torch.equal(step, -sgd.state[weight]["momentum_buffer"].sign())


@LOOP_OR_LIST
def test_momentum_may_be_switched_on_and_off_between_steps(foreach: bool) -> None:
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SignSGD([weight], lr=1.0, foreach=foreach)
    places = []
    for gradient, momentum in [(4.0, 0), (4.0, 0.5), (-1.0, 0.5), (-1.0, 0), (1.0, 0.5)]:
        optimizer.param_groups[0]["momentum"] = momentum
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        places.append(weight.item())
    assert places == [-1, -2, -3, -2, -3]  # m = -, 2, .5, -, .5
    optimizer.param_groups[0]["momentum"] = 0
    optimizer.step()
    assert optimizer.state[weight] == {}
