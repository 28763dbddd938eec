"""Minima, values and gradients of the 2-D functions by hand; their noise."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from truestep.compare.problems import (
    beale,
    beale_at,
    quadratic,
    quadratic_at,
    rastrigin,
    rastrigin_at,
    rosenbrock,
    rosenbrock_at,
)

MINIMA = [(rosenbrock_at, (1.0, 1.0)), (beale_at, (3.0, 0.5)), (quadratic_at, (0.0, 0.0)), (rastrigin_at, (0.0, 0.0))]
# Rosenbrock at (2, 1): 1 + 100 * 9; (-2 (1 - x) - 400 x (y - x²), 200 (y - x²)). Beale at (1, 0): terms .5, 1.25 and
# 1.625; gradient 2 Σ term (y^k - 1) = -2 * 3.375 and 2 Σ term k x y^(k-1) = 2 * .5. Rastrigin: cos 0 and -1.
GRADIENTS = [
    (rosenbrock_at, (2.0, 1.0), 901.0, (2402.0, -600.0)),
    (beale_at, (1.0, 0.0), 4.453125, (-6.75, 1.0)),
    (quadratic_at, (3.0, -2.0), 204.5, (3.0, -200.0)),
    (rastrigin_at, (0.25, 0.5), 30.3125, (0.5 + 20 * torch.pi, 1.0)),
]
PROBLEMS = [rosenbrock, beale, quadratic, rastrigin]


def value_and_gradient(function, w: tuple[float, float]) -> tuple[float, Tensor]:
    point = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    value = function(point)
    (gradient,) = torch.autograd.grad(value, point)
    return value.item(), gradient


@pytest.mark.parametrize(("function", "minimum"), MINIMA)
def test_at_the_minimum_value_and_gradient_are_zero_and_the_curvature_is_positive(function, minimum) -> None:
    value, gradient = value_and_gradient(function, minimum)
    assert value == 0.0
    torch.testing.assert_close(gradient, torch.zeros(2).double())
    hessian = torch.autograd.functional.hessian(function, torch.tensor(minimum, dtype=torch.float64))
    assert torch.linalg.eigvalsh(hessian).min() > 0


@pytest.mark.parametrize(("function", "w", "value", "gradient"), GRADIENTS)
def test_value_and_gradient_are_those_worked_out_by_hand(function, w, value, gradient) -> None:
    found, slope = value_and_gradient(function, w)
    assert found == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(slope, torch.tensor(gradient, dtype=torch.float64))


@pytest.mark.parametrize("make", PROBLEMS)
def test_the_noise_of_a_batch_is_added_to_the_gradient_and_to_nothing_else(make) -> None:
    problem = make(noise=0.7)
    model = problem.build(0)
    batch = next(problem.batches(0))
    (noisy,) = torch.autograd.grad(problem.loss_fn(model, batch), model.w)
    (clean,) = torch.autograd.grad(problem.loss_fn(model, problem.probe()), model.w)
    torch.testing.assert_close(noisy - clean, batch[0])


def test_the_noise_has_the_deviation_that_was_asked_for() -> None:
    noise = torch.stack([batch[0] for batch in islice(rosenbrock(noise=3).batches(0), 4000)])
    torch.testing.assert_close(noise.std(0), torch.full((2,), 3.0).double(), atol=0.15, rtol=0)  # 4.5 standard errors
    torch.testing.assert_close(noise.mean(0), torch.zeros(2).double(), atol=0.2, rtol=0)


def test_without_noise_the_batch_s_loss_is_the_probe_s() -> None:
    problem = beale()
    model = problem.build(0)
    assert problem.loss_fn(model, next(problem.batches(0))).item() == problem.probe_loss(model)


def test_without_spread_every_seed_starts_at_the_named_point() -> None:
    assert rosenbrock(spread=0).build(3).w.tolist() == [-1.2, 1.0]


def test_solved_on_rastrigin_is_only_near_a_bottom() -> None:
    bottoms = torch.tensor([[-1.99, 2.985], [-1.99, 3.98]], dtype=torch.float64)
    target = rastrigin().target
    assert (rastrigin_at(bottoms) < target).all()
    assert (rastrigin_at(bottoms + 0.3) > target).all()
