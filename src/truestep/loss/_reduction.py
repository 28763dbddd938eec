"""Losses of one micro-batch as a sum, and what it is to be divided by: the objective, apart from the step."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, Num
from torch import Tensor

from truestep.core import SumCount

Per = Literal["item", "token", "weight"]
Losses = Float[Tensor, "*terms"]
Count = int | float | Tensor
Mask = Num[Tensor, "*kept"] | Bool[Tensor, "*kept"]  # these two may lack trailing dimensions of the losses
Weight = Num[Tensor, "*weighted"]


def unreduced(losses: Losses, mask: Mask | None, weight: Weight | None, per: Per) -> SumCount:
    r"""Sum over kept terms of :math:`w_i \ell_i`, which carries the gradient, and the denominator that `per` names.

    A term is kept where `mask` and `weight` are not 0. What is not kept adds nothing and is not counted, also where its
    loss is nan (its gradient is 0 then unless its own backward makes inf times 0, as that of log(0) does).

    Args:
        losses: Unreduced losses, without class weights, items first.
        mask: True (or 1) where a term is kept; may lack trailing dimensions of `losses`.
        weight: Multiplies the losses; may lack trailing dimensions too.
        per: "token": number of kept terms. "weight": sum of their weights. "item": number of items that keep any term,
            each of which is first averaged over its kept terms.

    Example:
        >>> losses, mask = torch.tensor([[1.0, 3.0], [5.0, 0.0]]), torch.tensor([[True, True], [True, False]])
        >>> [unreduced(losses, mask, None, per).mean.item() for per in ("token", "item")]
        [3.0, 3.5]
    """
    kept = None if mask is None else _as_long(mask, losses, "mask") != 0
    w = None if weight is None else _as_long(weight.detach(), losses, "weight")
    terms = losses if w is None else losses * w.to(_wide(losses.dtype))
    if w is not None:
        kept = w != 0 if kept is None else kept & (w != 0)
    if kept is not None:
        terms = torch.where(kept, terms, 0.0)
    number = _total(kept, losses)
    if per == "item" and losses.dim() > 1:
        rows = _kept_in_rows(kept, losses)
        items = terms.flatten(1).sum(1, dtype=torch.float64) / rows.clamp_min(1.0)
        return SumCount(items.sum(), (rows > 0).sum(dtype=torch.float64), number)
    loss = terms.sum(dtype=torch.float64)
    if per == "weight" and w is not None and kept is not None:
        return SumCount(loss, _total(torch.where(kept, w, 0.0), losses), number)
    return SumCount(loss, number, number)


def from_mean(loss: Float[Tensor, ""], count: Count) -> SumCount:
    """A mean loss times its count; a count of 0 (all targets ignored) gives 0, also where the mean is 0/0."""
    if not isinstance(count, Tensor):
        count = torch.full((), count, dtype=torch.float64, device=loss.device)
    n = count.detach().to(loss.device, torch.float64)
    return SumCount(torch.where(n > 0, loss.double() * n, 0.0), n, n)


def _as_long(x: Tensor, losses: Tensor, name: str) -> Tensor:
    """`x` with as many dimensions as the losses, the missing ones last."""
    if tuple(x.shape) != tuple(losses.shape[: x.dim()]):
        msg = f"`{name}` must have the losses' shape or its first dimensions; found {[*x.shape]} for {[*losses.shape]}"
        raise ValueError(msg)
    return x.reshape(*x.shape, *(1,) * (losses.dim() - x.dim()))


def _total(values: Tensor | None, losses: Tensor) -> Float64[Tensor, ""]:
    """Sum of `values`, each standing for all the losses that it is broadcast over; None stands for ones."""
    if values is None:
        return torch.full((), losses.numel(), dtype=torch.float64, device=losses.device)
    return values.sum(dtype=torch.float64) * (losses.numel() // max(1, values.numel()))


def _kept_in_rows(kept: Tensor | None, losses: Tensor) -> Float64[Tensor, "items"]:
    if kept is None:
        return torch.full(losses.shape[:1], losses[:1].numel(), dtype=torch.float64, device=losses.device)
    return kept.expand_as(losses).flatten(1).sum(1, dtype=torch.float64)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32: a product of half precision numbers is rounded once, in the sum."""
    return torch.promote_types(dtype, torch.float32)
