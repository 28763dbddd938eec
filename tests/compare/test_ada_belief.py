"""AdaBelief against values worked out by hand, against Adam in closed form, and what eps does to it."""

from math import sqrt

import pytest
import torch
from tests.compare.walks import LOOP_OR_LIST, walked
from torch import Tensor

from truestep.compare import AdaBelief


def walk(gradients: Tensor, rule: type = AdaBelief, start: float = 0.0, **settings: object) -> Tensor:
    return walked(rule, gradients, start, **settings)


@LOOP_OR_LIST
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_three_steps_by_hand(foreach: bool, weight_decay: float) -> None:
    # g          4           1           -3.5
    # m          2           3/2         -1            m / (1 - 1/2^t)   4   2      -8/7
    # (g - m)^2  4           1/4         25/4
    # s          1 + 1/4     5/4         11/4          s / (1 - (3/4)^t) 5   20/7   176/37
    gradients = torch.tensor([[4.0], [1.0], [-3.5]], dtype=torch.float64)
    settings = {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.25, "foreach": foreach, "weight_decay": weight_decay}
    found = walk(gradients, start=1.0, **settings)
    weight, expected = 1.0, []
    for average, variance in [(4.0, 5.0), (2.0, 20 / 7), (-8 / 7, 176 / 37)]:
        weight -= 0.1 * (average / (sqrt(variance) + 0.25) + weight_decay * weight)
        expected.append(weight)
    torch.testing.assert_close(found.flatten().tolist(), expected, rtol=1e-14, atol=0)


@LOOP_OR_LIST
def test_the_state_by_hand(foreach: bool) -> None:
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = AdaBelief([weight], betas=(0.5, 0.75), eps=0.25, foreach=foreach)
    for step, (gradient, average, variance) in enumerate([(4.0, 2.0, 1.25), (1.0, 1.5, 1.25), (-3.5, -1.0, 2.75)]):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        state = optimizer.state[weight]
        assert (state["step"], state["exp_avg"].item(), state["exp_avg_var"].item()) == (step + 1, average, variance)


def test_under_a_constant_gradient_it_is_adam_sped_up_by_the_closed_form() -> None:
    gradients = torch.full((300, 1), 2.0, dtype=torch.float64)
    belief, adam = (walk(gradients, rule, lr=1.0).diff(dim=0).flatten() for rule in (AdaBelief, torch.optim.Adam))
    beta1, beta2 = 0.9, 0.999
    for steps, rounded in [(10, 1.64), (100, 4.96), (300, 9.04)]:
        surprises = sum(beta2 ** (steps - i) * beta1 ** (2 * i) for i in range(1, steps + 1))
        factor = ((1 - beta2) * surprises / (1 - beta2**steps)) ** -0.5
        assert factor == pytest.approx(rounded, abs=0.005)
        found = (belief[steps - 2] / adam[steps - 2]).item()  # the first difference is the second step
        assert found == pytest.approx(factor, rel=1e-7)


def test_the_first_step_is_lr_over_beta1_whatever_the_gradient() -> None:
    gradients = torch.tensor([[1e-3, -1.0, 1e6]], dtype=torch.float64)
    expected = torch.tensor([[-0.2, 0.2, -0.2]], dtype=torch.float64)
    torch.testing.assert_close(walk(gradients, lr=0.1, betas=(0.5, 0.999)), expected, rtol=1e-6, atol=0)


@LOOP_OR_LIST
@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e10])
def test_above_the_floor_of_eps_the_size_of_the_loss_does_not_enter(foreach: bool, scale: float) -> None:
    gradients = torch.empty(20, 50, dtype=torch.float64).uniform_(1, 2) * torch.randn(20, 50).sign()
    settings = {"lr": 0.01, "weight_decay": 0.1, "foreach": foreach}
    torch.testing.assert_close(walk(gradients * scale, **settings), walk(gradients, **settings), rtol=0, atol=1e-6)


def test_below_the_floor_of_eps_it_is_sgd_along_the_average() -> None:
    gradients = 1e-7 * torch.randn(20, 50, dtype=torch.float64)
    steps = walk(gradients, lr=0.1, eps=1e-8).diff(dim=0)
    average, expected = torch.zeros(50, dtype=torch.float64), []
    for step, gradient in enumerate(gradients, 1):
        average = 0.9 * average + 0.1 * gradient
        expected.append(-0.1 * average / (1 - 0.9**step) * sqrt((1 - 0.999) / 1e-8))
    torch.testing.assert_close(steps, torch.stack(expected[1:]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_an_element_without_gradient_stays(dtype: torch.dtype) -> None:
    assert not walk(torch.zeros(5, 3, dtype=dtype)).any()


def test_an_eps_that_is_zero_in_the_weight_s_format_is_refused_before_anything_moves() -> None:
    full, half = (torch.nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float32, torch.float16))
    full.grad, half.grad = torch.ones_like(full), torch.ones_like(half)
    with pytest.raises(ValueError, match=r"`eps` must be above 0 in torch.float16, found 1e-16"):
        AdaBelief([full, half]).step()
    assert torch.equal(full.data, torch.ones(2))
    AdaBelief([full, half], eps=1e-6).step()
    assert half.isfinite().all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("eps", [0.0, -1e-8, float("nan"), float("inf")])
def test_eps_out_of_range_is_refused_also_in_a_group(eps: float) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="`eps` must be above 0"):
        AdaBelief([weight], eps=eps)
    with pytest.raises(ValueError, match="`eps` must be above 0"):
        AdaBelief([{"params": [weight], "eps": eps}])
