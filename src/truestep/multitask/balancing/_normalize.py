r"""From weights up to a factor to weights: what of the step they keep.

With :math:`g_i` the norm of task i's unweighted gradient, all sums over the tasks that are active.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from truestep.multitask._rule import PerTask, Readings, is_everyone, kept, only

Normalize = Literal["budget", "sum", "none"]


def normalized(raw: PerTask, seen: Readings, normalize: Normalize) -> PerTask:
    r"""Weights :math:`w = c\,a` of the active tasks from a rule's :math:`a`; those of other tasks stay.

    "budget" keeps what the plain sum of the losses spends on the trunk, :math:`\sum w_i g_i = \sum g_i`; "sum" keeps
    the sum of the weights, that is T over all tasks (Chen et al., 2018, algorithm 1); "none" takes :math:`c = 1`.
    Where that leaves no positive finite factor, all weights stay.

    Example:
        >>> one = torch.ones(2, dtype=torch.float64)
        >>> seen = Readings(one, one, torch.tensor([1.0, 3.0]).double(), one > 0, one)
        >>> normalized(torch.tensor([3.0, 1.0]).double(), seen, "budget")
        tensor([2.0000, 0.6667], dtype=torch.float64)
        >>> normalized(torch.tensor([3.0, 1.0]).double(), seen, "sum")
        tensor([1.5000, 0.5000], dtype=torch.float64)
    """
    if is_everyone(seen.active) and (weights := _whole(raw, seen, normalize)) is not None:
        return weights
    active = seen.active & (raw.abs() < torch.inf)
    if normalize == "none":
        return kept(active, raw, seen.weights)
    before, size = (seen.weights, raw) if normalize == "sum" else (seen.norms, raw * seen.norms)
    factor = _sum(active, before) / _sum(active, size)
    good = active & (factor > 0) & (factor < torch.inf)
    return kept(good, factor * raw, seen.weights)


def _whole(raw: PerTask, seen: Readings, normalize: Normalize) -> PerTask | None:
    """The same where all tasks are active, with fewer calls; None unless all of it is finite. Reads the host."""
    weights = raw
    if normalize != "none":
        before, size = (seen.weights, raw) if normalize == "sum" else (seen.norms, raw * seen.norms)
        factor = before.sum() / size.sum()
        if not 0 < factor.item() < math.inf:
            return None
        weights = factor * raw
    return weights if all(map(math.isfinite, weights.tolist())) else None


def step_factor(weights: PerTask, norms: PerTask, active: Bool[Tensor, " tasks"]) -> Float64[Tensor, ""]:
    r"""Gradient budget over that of the plain sum of the losses, :math:`\sum w_i g_i / \sum g_i`; nan without norms.

    What balancing did to the trunk's step of plain SGD, where the tasks' gradients are parallel; in general between
    the smallest and the largest weight, as the step itself is where the gradients do not oppose each other.
    """
    return _sum(active, weights * norms) / _sum(active, norms)


def trunk_factor(
    weights: PerTask, gram: Float64[Tensor, "tasks tasks"], active: Bool[Tensor, " tasks"]
) -> Float64[Tensor, ""]:
    r"""Norm of the trunk's gradient over that without balancing, :math:`\|\sum w_i g_i\| / \|\sum g_i\|`.

    Needs the inner products of the gradients; nan without. Exact also where tasks oppose each other.
    """
    w, one = only(active, weights), active.double()
    gram = torch.where(torch.outer(active, active), gram, 0.0)  # 0 times nan is nan
    return ((w @ gram @ w).clamp_min(0.0) / (one @ gram @ one)).sqrt()


def _sum(active: Tensor, x: PerTask) -> Float64[Tensor, ""]:
    return only(active, x).sum()
