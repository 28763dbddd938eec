"""Growth of the norm: identities over whole runs, and where each stops to hold."""

from __future__ import annotations

from math import e, exp, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.invariance.random_walk import noise, start
from torch import Tensor, nn

from truestep.core import Gram, gram
from truestep.invariance import effective_lr
from truestep.invariance._growth import (
    gradient_size,
    growth_law,
    growth_time,
    sgd_squared_norm_after,
    squared_norm_after,
)


def normed_run(steps: int, momentum: float = 0.0, weight_decay: float = 0.0) -> list[tuple[Gram, Tensor]]:
    """Grams by unit of a layer before a BatchNorm without eps, float64, and its squared norms after each step."""
    layer, norm, head = nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4, eps=1e-30, affine=False), nn.Linear(4, 3)
    model = nn.Sequential(layer, norm, nn.Tanh(), head).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=momentum, weight_decay=weight_decay)
    found: list[tuple[Gram, Tensor]] = []
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(16, 6, dtype=torch.float64)
        nn.functional.cross_entropy(model(x), x.argmax(1) % 3).backward()
        before, g = layer.weight.detach().clone(), layer.weight.grad
        optimizer.step()
        assert g is not None
        w = layer.weight.detach()
        found.append((gram(before, g, w - before, unit_dim=0), w.square().sum(1)))
    return found


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_growth_under_plain_sgd_is_foretold_to_twelve_digits_at_each_of_300_steps(weight_decay: float) -> None:
    foretold = None
    for record, after in normed_run(300, weight_decay=weight_decay):
        assert bool((record.gg > 0).all())
        torch.testing.assert_close(sgd_squared_norm_after(record, 0.5, weight_decay), after, rtol=1e-12, atol=0)
        torch.testing.assert_close(squared_norm_after(record), after, rtol=1e-12, atol=0)
        first = record.ww if foretold is None else foretold
        foretold = (1 - 0.5 * weight_decay) ** 2 * first + 0.25 * record.gg  # never looking at the weights again
        torch.testing.assert_close(foretold, after, rtol=1e-12, atol=0)


def test_with_momentum_the_general_identity_holds_and_that_of_plain_sgd_does_not() -> None:
    off = []
    for record, after in normed_run(50, momentum=0.9):
        torch.testing.assert_close(squared_norm_after(record), after, rtol=1e-12, atol=0)
        off.append(float((sgd_squared_norm_after(record, 0.5) / after - 1).abs().max()))
    assert max(off) > 1e-2


@given(angle=st.floats(0.0, 3.0), length=st.floats(0.01, 100.0))
def test_the_general_identity_by_the_law_of_cosines(angle: float, length: float) -> None:
    w = torch.tensor([2.0, 0.0], dtype=torch.float64)
    d = length * torch.tensor([torch.tensor(angle).cos(), torch.tensor(angle).sin()], dtype=torch.float64)
    expected = float((w + d).square().sum())
    assert float(squared_norm_after(gram(w, w, d))) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def steady_run(q: float, steps: int) -> tuple[Gram, Tensor]:
    """Plain SGD at lr 1 under gradients of one exact size: first record, and squared norms [steps, units]."""
    w, squares = start(1.0), []
    first = None
    for _ in range(steps):
        g = noise(w)
        g *= sqrt(q) / (g.norm(dim=1, keepdim=True) * w.norm(dim=1, keepdim=True))
        first = gram(w, g, -g, unit_dim=0) if first is None else first
        w = w - g
        squares.append(w.square().sum(1))
    assert first is not None
    return first, torch.stack(squares)


@pytest.mark.parametrize("q", [0.01, 0.1])
def test_the_square_root_law_is_too_low_by_no_more_than_it_says(q: float) -> None:
    first, squares = steady_run(q, 500)
    steps = torch.arange(1, 501, dtype=torch.float64)
    law = torch.stack([growth_law(first, 1.0, float(k)) for k in steps])
    short = 1 - law / squares
    assert float(short.min()) > -1e-12
    bound = q * exp(2 * q) / (4 * e)
    assert 0.8 * bound < float(short.max()) < bound
    assert float((squares[-1] / first.ww).min()) > 3


def test_the_effective_lr_falls_as_one_over_the_root() -> None:
    first, squares = steady_run(0.01, 300)
    k0 = growth_time(first, 1.0)
    torch.testing.assert_close(k0, torch.full_like(k0, 50.0), rtol=1e-12, atol=0)
    end = Gram.from_columns(torch.stack([squares[-1]] * 6, -1))
    expected = effective_lr(first, 1.0) / (1 + 300 / k0).sqrt()
    torch.testing.assert_close(effective_lr(end, 1.0), expected, rtol=1e-3, atol=0)


@given(c=st.integers(-8, 8).map(lambda power: 10.0**power))
def test_growth_does_not_see_the_scale_of_the_weights_if_lr_follows_its_square(c: float) -> None:
    w, z = torch.randn(2, 9, dtype=torch.float64)
    g = z - w * (z @ w) / (w @ w)
    one, other = gram(w, g, -0.1 * g), gram(c * w, g / c, -0.1 * c * g)
    for mine, theirs, power in (
        (growth_time(one, 0.1), growth_time(other, 0.1 * c**2), 0),
        (gradient_size(one), gradient_size(other), 0),
        (growth_law(one, 0.1, 7), growth_law(other, 0.1 * c**2, 7), 2),
        (sgd_squared_norm_after(one, 0.1, 0.3), sgd_squared_norm_after(other, 0.1 * c**2, 0.3 / c**2), 2),
    ):
        torch.testing.assert_close(theirs, mine * c**power, rtol=1e-10, atol=0)


def test_the_gradient_at_the_sphere_has_the_size_that_is_read_off_the_gradient_at_w() -> None:
    w, target = torch.randn(2, 10, dtype=torch.float64)

    def gradient(at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        return torch.autograd.grad((at / at.norm() * target).sum().exp(), at)[0]

    found = gradient_size(gram(w, gradient(w), w))
    torch.testing.assert_close(found, gradient(w / w.norm()).square().sum(), rtol=1e-12, atol=0)
