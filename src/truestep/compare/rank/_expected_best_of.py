"""What the best of k draws is on average: the loss that a tuning budget buys."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor


def expected_best_of(losses: Float64[Tensor, " values"], draws: int) -> Float64[Tensor, ""]:
    r"""Expected minimum of `draws` values that are drawn from `losses`, each equally likely at every draw.

    .. math:: E_k = \sum_{i=1}^{n} y_{(i)} \left[\Big(\frac{n-i+1}{n}\Big)^k - \Big(\frac{n-i}{n}\Big)^k\right]

    Args:
        losses: y, one for each value of the grid.
        draws: k, the budget.

    Raises:
        ValueError: If `draws` is not positive.

    Example:
        >>> import torch
        >>> losses = torch.tensor([4.0, 1.0], dtype=torch.float64)
        >>> [expected_best_of(losses, k).item() for k in (1, 2)]  # 1 with probability 3/4
        [2.5, 1.75]

    References:
        Dodge et al., 2019, "Show your work", equation 4, for the maximum.
    """
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1, found {draws}")
    n = len(losses)
    left = torch.arange(n, -1, -1, dtype=torch.float64) / n  # n/n ... 0/n
    return losses.sort().values @ (left[:-1] ** draws - left[1:] ** draws)
