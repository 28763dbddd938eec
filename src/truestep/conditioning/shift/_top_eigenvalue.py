"""The largest eigenvalue of a covariance, without all the others."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

EXACT_BELOW: Final = 1024  # features up to which all eigenvalues cost next to nothing
_STEPS: Final = 300
_EVERY: Final = 10  # steps between two looks at the residual
_TOLERANCE: Final = 1e-10  # of the residual, in units of the eigenvalue


@torch.no_grad()
def top_eigenvalue(matrix: Float64[Tensor, "features features"]) -> float:
    r"""Largest eigenvalue of a symmetric finite matrix, 0 for no features.

    From 1024 features on by Lanczos steps with every vector kept orthogonal to all before, from a fixed start, until

    .. math:: \|A v - \theta v\| \le 10^{-10} |\theta|,

    so that an eigenvalue lies as near to :math:`\theta`. It takes as many products with the matrix as that has
    different eigenvalues (of few rows: their number), for a dense spectrum about a hundred; after 300 all eigenvalues
    are computed instead.

    Example:
        >>> import torch
        >>> top_eigenvalue(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64))
        3.0
    """
    found = lanczos(matrix) if len(matrix) >= EXACT_BELOW else None
    return float(torch.linalg.eigvalsh(matrix)[-1:].sum()) if found is None else found


@torch.no_grad()
def lanczos(matrix: Float64[Tensor, "features features"]) -> float | None:
    """The largest eigenvalue, or None where the residual stays too large."""
    size = len(matrix)
    steps = min(_STEPS, size)
    start = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(matrix.device)
    basis = matrix.new_zeros(steps, size)
    basis[0] = start / start.norm()
    small = torch.zeros(steps, steps, dtype=torch.float64)  # the matrix in the basis: tridiagonal
    for k in range(steps):
        product, known = matrix @ basis[k], basis[: k + 1]
        small[k, k] = float(basis[k] @ product)
        for _ in range(2):  # once more takes off what rounding left
            product = product - (known @ product) @ known
        beyond = float(product.norm())
        ended = beyond <= 1e-13 * float(small.abs().max())  # the basis spans all that the start has a part of
        if ended or (k + 1) % _EVERY == 0 or k + 1 == steps:
            values, vectors = torch.linalg.eigh(small[: k + 1, : k + 1])
            value, residual = float(values[-1]), beyond * abs(float(vectors[-1, -1]))
            if ended or residual <= _TOLERANCE * abs(value):
                return value
        if k + 1 < steps:
            basis[k + 1] = product / beyond
            small[k, k + 1] = small[k + 1, k] = beyond
    return None
