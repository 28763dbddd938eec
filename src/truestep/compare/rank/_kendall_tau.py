"""How far two orders agree."""

from __future__ import annotations

from jaxtyping import Float64
from torch import Tensor


def kendall_tau(first: Float64[Tensor, " n"], second: Float64[Tensor, " n"]) -> float:
    r"""Kendall's tau-b, from -1 (the order is turned round) to 1 (the same order); nan where all of one are equal.

    .. math:: \tau = \frac{\sum_{i<j} \operatorname{sign}(x_i - x_j) \operatorname{sign}(y_i - y_j)}
        {\sqrt{\#\{i<j : x_i \ne x_j\}\ \#\{i<j : y_i \ne y_j\}}}

    Example:
        >>> import torch
        >>> one, other = torch.tensor([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]], dtype=torch.float64)
        >>> round(kendall_tau(one, other), 3)  # two pairs agree, one does not
        0.333
    """
    x, y = ((values[:, None] - values).sign() for values in (first, second))
    return float((x * y).sum() / (x.abs().sum() * y.abs().sum()).sqrt())
