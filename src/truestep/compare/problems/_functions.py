r"""Functions of two variables, with gradient noise as strong as one likes.

The loss of a batch is :math:`f(w) + \langle \xi, w\rangle` with :math:`\xi \sim N(0, \sigma^2 I)`: its gradient is
:math:`\nabla f(w) + \xi`, so the signal-to-noise ratio is :math:`|\partial_i f| / \sigma`. The probe has no noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from truestep.compare.problems._problem import Problem
from truestep.compare.problems._seeds import data_stream, weight_stream

Point2 = Float[Tensor, "*points 2"]
Value = Float[Tensor, "*points"]

CONDITION: Final = 100.0  # of the quadratic


def rosenbrock_at(w: Point2) -> Value:
    r"""A curved valley: :math:`(1 - x)^2 + 100 (y - x^2)^2`, least at (1, 1) with value 0.

    Example:
        >>> import torch
        >>> rosenbrock_at(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
        tensor([  0., 101.])
    """
    x, y = w.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def beale_at(w: Point2) -> Value:
    r"""Beale's function, flat with steep corners: least at (3, 1/2) with value 0.

    .. math:: (1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2

    Example:
        >>> import torch
        >>> beale_at(torch.tensor([[3.0, 0.5], [0.0, 0.0]]))
        tensor([ 0.0000, 14.2031])
    """
    x, y = w.unbind(-1)
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def quadratic_at(w: Point2) -> Value:
    r"""A bowl of condition number 100: :math:`(x^2 + 100 y^2) / 2`, least at (0, 0) with value 0.

    Example:
        >>> import torch
        >>> quadratic_at(torch.tensor([1.0, 1.0]))
        tensor(50.5000)
    """
    x, y = w.unbind(-1)
    return (x**2 + CONDITION * y**2) / 2


def rastrigin_at(w: Point2) -> Value:
    r"""A bowl full of holes: :math:`20 + \sum_i w_i^2 - 10 \cos 2\pi w_i`, least at (0, 0) with value 0.

    Example:
        >>> import torch
        >>> rastrigin_at(torch.tensor([[0.0, 0.0], [0.5, 1.0]]))
        tensor([ 0.0000, 21.2500])
    """
    return 20 + (w**2 - 10 * torch.cos(2 * math.pi * w)).sum(-1)


class Point(nn.Module):
    """Its one parameter `w` is the point; a batch's noise is taken, and not looked at."""

    def __init__(self, w: Float[Tensor, " size"]) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, noise: Tensor) -> Tensor:  # noqa: ARG002
        """The point."""
        return self.w


def rosenbrock(*, noise: int | float = 0.0, spread: int | float = 0.1) -> Problem:
    """Rosenbrock's valley from his own start (-1.2, 1); see `rosenbrock_at`.

    Args:
        noise: Standard deviation of the gradient noise in each coordinate.
        spread: Standard deviation of the start from seed to seed.

    Example:
        >>> problem = rosenbrock(noise=1.0)
        >>> loss = problem.loss_fn(problem.build(0), next(problem.batches(0)))
    """
    return _function("rosenbrock", rosenbrock_at, (-1.2, 1.0), noise, spread, target=0.01, max_steps=2000)


def beale(*, noise: int | float = 0.0, spread: int | float = 0.1) -> Problem:
    """Beale's function from (1, 1); see `beale_at`, and `rosenbrock` for the arguments."""
    return _function("beale", beale_at, (1.0, 1.0), noise, spread, target=0.01, max_steps=1000)


def quadratic(*, noise: int | float = 0.0, spread: int | float = 0.1) -> Problem:
    """The bowl of condition 100 from (1, 1); see `quadratic_at`, and `rosenbrock` for the arguments."""
    return _function("quadratic", quadratic_at, (1.0, 1.0), noise, spread, target=0.01, max_steps=1000)


def rastrigin(*, noise: int | float = 0.0, spread: int | float = 0.1) -> Problem:
    """The bowl full of holes from (-2, 3.5); see `rastrigin_at`, and `rosenbrock` for the arguments.

    Solved is whoever gets near the bottom of a hole next to the start, 12.9 or 19.9; the deepest has 0.
    """
    return _function("rastrigin", rastrigin_at, (-2.0, 3.5), noise, spread, target=20.0, max_steps=1000)


def noisy_value(value: Callable[[Tensor], Tensor], model: nn.Module, batch: Any) -> Float[Tensor, ""]:
    """The value at the model's point, and the noise times the point, which adds the noise to the gradient."""
    (noise,) = batch
    w = model(noise)
    return value(w) + noise.to(w) @ w


def noise_batches(scales: tuple[int | float, ...], seed: int) -> Iterator[tuple[Tensor]]:
    """Independent normal noise without end, with a standard deviation for each coordinate; in float64."""
    generator, deviation = data_stream(seed), torch.tensor(scales, dtype=torch.float64)
    while True:
        yield (deviation * torch.randn(len(scales), generator=generator, dtype=torch.float64),)


def no_noise(size: int) -> tuple[Tensor]:
    """The probe: the loss itself."""
    return (torch.zeros(size, dtype=torch.float64),)


def normal_point(centre: tuple[int | float, ...], spread: int | float, seed: int) -> Point:
    """A point drawn around a centre."""
    drawn = torch.randn(len(centre), generator=weight_stream(seed), dtype=torch.float64)
    return Point(torch.tensor(centre, dtype=torch.float64) + spread * drawn)


def _function(
    name: str,
    value: Callable[[Tensor], Tensor],
    start: tuple[float, float],
    noise: int | float,
    spread: int | float,
    *,
    target: float,
    max_steps: int,
) -> Problem:
    build = partial(normal_point, start, spread)
    batches = partial(noise_batches, (noise, noise))
    return Problem(name, build, batches, partial(noisy_value, value), partial(no_noise, 2), target, max_steps)
