"""AdaBelief's speed against Adam: the closed forms, and the two optimizers themselves."""

import math

import pytest
import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from truestep.compare import AdaBelief
from truestep.compare._belief import adabelief_growth, adabelief_speed


def displacements(optimizer: type[Optimizer], gradients: Tensor, betas: tuple[float, float]) -> Tensor:
    """The steps [steps, weights] that the gradients [steps, weights] lead to."""
    weight = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    rule = optimizer([weight], lr=1.0, betas=betas, eps=1e-30)  # type: ignore[call-arg]
    points = [weight.detach().clone()]
    for gradient in gradients:
        weight.grad = gradient.clone()
        rule.step()
        points.append(weight.detach().clone())
    return torch.stack(points).diff(dim=0)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.6, 0.36), (0.9, 0.81), (0.9, 0.5)])
def test_growth_is_the_ratio_of_the_steps_under_a_constant_gradient(betas: tuple[float, float]) -> None:
    gradients = torch.tensor([1e-3, 1.0, 1e4], dtype=torch.float64).expand(30, 3)
    belief, adam = (displacements(each, gradients, betas) for each in (AdaBelief, Adam))
    predicted = adabelief_growth(torch.arange(1, 31), *betas)
    torch.testing.assert_close(belief / adam, predicted[:, None].expand(30, 3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("beta2", [0.5, 0.81, 0.999])
def test_growth_is_no_number_less_than_one_after_many_steps(beta2: float) -> None:
    late = adabelief_growth(torch.tensor([1000, 3000]), 0.9, beta2)
    assert (late > 1).all()


def test_growth_is_one_over_beta1_at_first_and_then_the_root_of_beta2_a_step() -> None:
    first, late, later = adabelief_growth(torch.tensor([1, 20_000, 20_100])).tolist()
    assert first == pytest.approx(1 / 0.9)
    assert later / late == pytest.approx(0.999**-50)


@pytest.mark.parametrize(("beta1", "snr"), [(0.9, 0.0), (0.9, 1.0), (0.9, 3.0), (0.5, 1.0)])
def test_speed_is_the_ratio_of_the_steps_under_noise(beta1: float, snr: float) -> None:
    beta2, weights = 0.99, 4000
    generator = torch.Generator().manual_seed(0)
    gradients = snr + torch.randn(600, weights, generator=generator, dtype=torch.float64)
    belief, adam = (displacements(each, gradients, (beta1, beta2))[-1] for each in (AdaBelief, Adam))
    measured = (belief / adam).square().mean().sqrt().item()
    # the mean over 1 / (1 - beta2) = 100 steps of noise is not its expectation yet: some percent
    assert measured == pytest.approx(adabelief_speed(snr, beta1).item(), rel=0.04)


def test_speed_by_hand() -> None:
    assert adabelief_speed(0, 0.5).item() == pytest.approx(math.sqrt(3))
    assert adabelief_speed(-3.0, 0.5).item() == pytest.approx(math.sqrt(30))


@pytest.mark.parametrize("beta", [0, 1, -0.1])
def test_a_beta_out_of_range_is_refused(beta: float) -> None:
    for call in (lambda: adabelief_speed(1.0, beta), lambda: adabelief_growth(1, beta)):
        with pytest.raises(ValueError, match="`beta1` must be above 0 and below 1"):
            call()
    with pytest.raises(ValueError, match="`beta2` must be above 0"):
        adabelief_growth(1, 0.9, beta)


def test_there_is_no_step_before_the_first() -> None:
    with pytest.raises(ValueError, match="`step` must be 1 or more, found 0"):
        adabelief_growth(torch.tensor([3, 0]))
