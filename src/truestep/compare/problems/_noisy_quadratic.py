r"""A quadratic :math:`w^\top H w / 2` whose spectrum one chooses, with noise of covariance :math:`\propto H`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from truestep.compare.problems._functions import no_noise, noise_batches, noisy_value, normal_point
from truestep.compare.problems._problem import Problem

EIGENVALUES: Final = tuple(1 / i for i in range(1, 101))
ROTATION_SEED: Final = 0  # the axes belong to the problem, not to a seed


@lru_cache(maxsize=8)
def rotation(size: int) -> Float64[Tensor, "size size"]:
    """Orthonormal eigenvectors in columns, always the same for a size.

    Example:
        >>> import torch
        >>> q = rotation(3)
        >>> torch.allclose(q @ q.T, torch.eye(3, dtype=torch.float64))
        True
    """
    generator = torch.Generator().manual_seed(ROTATION_SEED)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def quadratic_form(eigenvalues: tuple[int | float, ...], rotated: bool, w: Float[Tensor, " size"]) -> Float[Tensor, ""]:
    """The value at w.

    Example:
        >>> import torch
        >>> quadratic_form((1.0, 4.0), False, torch.tensor([2.0, 1.0], dtype=torch.float64))
        tensor(4., dtype=torch.float64)
    """
    z = w @ rotation(len(w)).to(w) if rotated else w
    return (torch.tensor(eigenvalues, dtype=w.dtype, device=w.device) * z**2).sum() / 2


def noisy_quadratic(
    eigenvalues: tuple[int | float, ...] = EIGENVALUES,
    *,
    noise: int | float = 1.0,
    batch_size: int = 16,
    rotated: bool = True,
) -> Problem:
    r"""The noisy quadratic model: as many directions as eigenvalues, each with noise of its own curvature.

    .. math:: \nabla L = H w + \xi, \quad \xi \sim N(0, \tfrac{\sigma^2}{B} H)

    With SGD at a constant lr :math:`\eta`, the loss of an eigendirection settles at
    :math:`\eta \sigma^2 h / (2 B (2 - \eta h))`, so every expected loss is known. The start is drawn from N(0, I).

    Args:
        eigenvalues: Of H, not negative; their number is the number of dimensions. Default: 1/i for i up to 100.
        noise: :math:`\sigma`.
        batch_size: :math:`B`.
        rotated: Whether the eigenvectors lie across the axes, which a diagonal preconditioner cannot see.

    Raises:
        ValueError: If an eigenvalue is negative, or there is none.

    References:
        Zhang et al. 2019, "Which Algorithmic Choices Matter at Which Batch Sizes?", section 3.

    Note: Deviation
        They take H diagonal; `rotated=False` does. The target is 1 % of the expected start loss.

    Example:
        >>> problem = noisy_quadratic((1.0, 0.1), noise=0.5)
        >>> problem.build(0).w.shape, round(problem.target, 6)
        (torch.Size([2]), 0.0055)
    """
    if not eigenvalues or min(eigenvalues) < 0:
        raise ValueError(f"`eigenvalues` must be one or more numbers that are not negative, found {eigenvalues}")
    size = len(eigenvalues)
    scales = tuple(noise * (h / batch_size) ** 0.5 for h in eigenvalues)
    return Problem(
        "noisy-quadratic",
        partial(normal_point, (0.0,) * size, 1.0),
        partial(_rotated_noise, scales, rotated),
        partial(noisy_value, partial(quadratic_form, eigenvalues, rotated)),
        partial(no_noise, size),
        target=0.01 * sum(eigenvalues) / 2,
        max_steps=1000,
    )


def _rotated_noise(scales: tuple[float, ...], rotated: bool, seed: int) -> Iterator[tuple[Tensor]]:
    for (noise,) in noise_batches(scales, seed):
        yield (rotation(len(noise)) @ noise if rotated else noise,)
