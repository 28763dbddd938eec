"""The largest eigenvalues of a symmetric matrix that is known by its products alone: scipy's Lanczos method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

Product = Callable[[Float64[Tensor, " n"]], Float64[Tensor, " n"]]
RESTARTS = 100


def largest(
    product: Product,
    start: Float64[Tensor, " n"],
    k: int,
    *,
    scale: float = 0.0,
    tolerance: float = 2e-4,
    space: int | None = None,
) -> tuple[Float64[Tensor, " k"], Float64[Tensor, "k n"]]:
    r"""The k largest eigenvalues, by sign, in falling order, and their eigenvectors as rows.

    Args:
        product: The matrix times a float64 vector on the CPU.
        start: Where the search starts: a random vector, not zero.
        k: How many, fewer than there are elements.
        scale: Size of a usual eigenvalue, :math:`|Av|/|v|` of a random v: without it nothing ends the search for an
            eigenvalue that is 0.
        tolerance: A residual :math:`|Av - \lambda v|` of this share of :math:`|\lambda + \text{scale}|` ends it. The
            eigenvalue's error goes with its square over the distance to the next one.
        space: Vectors kept, so products at least. By default 2k + 1, at least 14.

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
    values, vectors = _lanczos(lambda v: product(v) + scale * v, start, k, tolerance, space)
    return values - scale, vectors


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
        msg = f"`k` = {k} eigenvalues did not converge in {RESTARTS} restarts; ask for fewer, or look at another batch"
        raise ValueError(msg) from error
    order = torch.tensor(values).argsort(descending=True)
    return torch.tensor(values)[order], torch.tensor(vectors).T[order]
