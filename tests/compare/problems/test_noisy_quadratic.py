"""The spectrum is the one asked for, the noise has its covariance, and SGD settles where the formula says."""

from itertools import islice

import pytest
import torch

from truestep.compare.problems import noisy_quadratic

SPECTRUM = (2.0, 1.0, 0.25, 0.0)


def hessian(problem) -> torch.Tensor:
    model = problem.build(0)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(Wrapped(problem, model), {"model.w": w}, ())

    return torch.autograd.functional.hessian(loss, model.w.detach())


class Wrapped(torch.nn.Module):
    def __init__(self, problem, model) -> None:
        super().__init__()
        self.problem, self.model = problem, model

    def forward(self) -> torch.Tensor:
        return self.problem.loss_fn(self.model, self.problem.probe())


@pytest.mark.parametrize("rotated", [False, True])
def test_the_hessian_has_the_eigenvalues_that_were_asked_for(rotated: bool) -> None:
    found = hessian(noisy_quadratic(SPECTRUM, rotated=rotated))
    torch.testing.assert_close(torch.linalg.eigvalsh(found).flip(0), torch.tensor(SPECTRUM).double())
    assert torch.equal(found, found.diag().diag()) is not rotated


@pytest.mark.parametrize("rotated", [False, True])
def test_the_noise_s_covariance_is_the_hessian_over_the_batch_size(rotated: bool) -> None:
    problem = noisy_quadratic(SPECTRUM, noise=3, batch_size=4, rotated=rotated)
    noise = torch.stack([batch[0] for batch in islice(problem.batches(0), 8000)])
    torch.testing.assert_close(noise.T @ noise / 8000, hessian(problem) * 9 / 4, atol=0.25, rtol=0)


def test_sgd_settles_at_the_loss_of_the_docstring() -> None:
    lr, steps = 0.5, 6000
    problem = noisy_quadratic((1.0, 0.5), batch_size=2)
    h, w = hessian(problem), problem.build(0).w.detach()
    losses = []
    for (noise,) in islice(problem.batches(0), steps):
        losses.append(w @ h @ w / 2)
        w = w - lr * (h @ w + noise)
    expected = sum(lr * h / (2 * 2 * (2 - lr * h)) for h in (1.0, 0.5))
    assert torch.stack(losses[100:]).mean().item() == pytest.approx(expected, rel=0.06)


def test_every_seed_has_the_same_axes() -> None:
    problem = noisy_quadratic()
    torch.testing.assert_close(hessian(problem), hessian(noisy_quadratic()), rtol=0, atol=0)
    assert problem.build(0).w.shape == (100,)


@pytest.mark.parametrize("eigenvalues", [(), (1.0, -0.1)])
def test_a_spectrum_without_a_minimum_is_refused(eigenvalues: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="`eigenvalues` must be"):
        noisy_quadratic(eigenvalues)
