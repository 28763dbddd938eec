"""The largest eigenvalues of a symmetric matrix that is known by its products alone: scipy's Lanczos method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

Product = Callable[[Float64[Tensor, " n"]], Float64[Tensor, " n"]]
RESTARTS = 100
EQUAL = 1e-6  # relative: an eigenvalue that is larger than another by less is the same one again


def largest(
    product: Product,
    start: Float64[Tensor, " n"],
    k: int,
    *,
    scale: float = 0.0,
    tolerance: float = 2e-4,
    space: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float64[Tensor, " k"], Float64[Tensor, "k n"]]:
    r"""The k largest eigenvalues, by sign, in falling order, each as often as it repeats, and their vectors as rows.

    From one start vector Lanczos sees one direction of a repeated eigenvalue. So for k above 1 the search begins anew,
    from a fresh random vector and without what was found, until nothing is left above the k-th: 20 to 50 products more,
    and as many again for each one that had been missed.

    Args:
        product: The matrix times a float64 vector on the CPU.
        start: Where the search starts: a random vector, with a part in every direction.
        k: How many, fewer than there are elements.
        scale: Size of a usual eigenvalue, :math:`|Av|/|v|` of a random v: without it nothing ends the search for an
            eigenvalue that is 0.
        tolerance: A residual :math:`|Av - \lambda v|` of this share of :math:`|\lambda + 2\,\text{scale}|` ends it.
            The eigenvalue's error goes with its square over the distance to the next one.
        space: Vectors kept, so products at least. By default 2k + 1, at least 14.
        generator: Of the fresh random vectors; torch's own by default.

    Raises:
        ValueError: If it does not converge.
        ImportError: scipy is not installed.

    Example:
        >>> import torch
        >>> d = torch.tensor([3.0, -9.0, 1.0], dtype=torch.float64)
        >>> values, vectors = largest(lambda v: d * v, torch.ones(3, dtype=torch.float64), 1)
        >>> values, vectors.abs()
        (tensor([3.], dtype=torch.float64), tensor([[1., 0., 0.]], dtype=torch.float64))
    """
    n = len(start)
    space = min(n, max(2 * k + 1, 14) if space is None else space)
    if space >= n or k >= n - 1:  # ARPACK would take as many products for less
        columns = [product(row) for row in torch.eye(n, dtype=torch.float64)]
        values, vectors = torch.linalg.eigh(torch.stack(columns))
        return values.flip(0)[:k], vectors.T.flip(0)[:k]
    shift = 2 * scale  # not `scale`: of -scale times the identity nothing would be left to search in

    def shifted(v: Tensor) -> Tensor:
        return product(v) + shift * v

    values, vectors = _lanczos(shifted, start, k, tolerance, space)
    for _ in range(k if k > 1 else 0):  # each round brings the largest one missed, or ends it
        fresh = torch.randn(n, generator=generator, dtype=torch.float64)
        below = min(0.0, 2 * float(values[-1]))  # far from it, or the two would mix
        more, directions = _lanczos(_without(shifted, vectors, below), fresh, 1, tolerance, min(n, 14))
        if float(more[0]) <= float(values[-1]) + EQUAL * abs(float(values[-1])):
            break
        values, order = torch.cat([values, more]).sort(descending=True)
        directions = directions - directions @ vectors.T @ vectors
        values, vectors = values[:k], torch.cat([vectors, directions / directions.norm()])[order[:k]]
    return values - shift, vectors


def _without(product: Product, found: Float64[Tensor, "k n"], value: float) -> Product:
    """The matrix on what is orthogonal to the orthonormal rows, which get the eigenvalue `value` instead."""

    def rest(v: Tensor) -> Tensor:
        inside = found.T @ (found @ v)
        image = product(v - inside)
        return image - found.T @ (found @ image) + value * inside

    return rest


def _lanczos(
    product: Product, start: Float64[Tensor, " n"], k: int, tolerance: float, space: int
) -> tuple[Float64[Tensor, " k"], Float64[Tensor, "k n"]]:
    try:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
    except ImportError as error:
        raise ImportError("eigenvalues need scipy: pip install 'truestep[curvature]'") from error

    def matvec(x: Any) -> Any:
        return product(torch.tensor(x, dtype=torch.float64).reshape(-1)).numpy()

    n = len(start)
    make: Any = LinearOperator  # its __new__ chooses a class of other arguments
    settings: dict[str, Any] = {"v0": start.numpy(), "ncv": space, "maxiter": RESTARTS, "tol": tolerance}
    try:
        values, vectors = eigsh(make((n, n), matvec=matvec, dtype="float64"), k, which="LA", **settings)
    except ArpackNoConvergence as error:
        msg = f"`k` eigenvalues did not converge in {RESTARTS} restarts; ask for fewer, or look at another batch"
        raise ValueError(msg) from error
    order = torch.tensor(values).argsort(descending=True)
    return torch.tensor(values)[order], torch.tensor(vectors).T[order]
