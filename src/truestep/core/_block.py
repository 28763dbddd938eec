"""One block's six products, whatever the layout of its tensors."""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core._products import Scratch, total_products, unit_products


def block_products(
    w: Tensor, g: Tensor | None, d: Tensor, scratch: Scratch, *, after: bool, unit_dim: int | None = None
) -> Float64[Tensor, "*units 6"]:
    """Six sums of a block (or of each unit along `unit_dim`); `after`: `d` is the weight after the step.

    Takes dense and sparse gradients, any strides, real and complex numbers; `g=None` counts as zero.
    """
    if g is not None and g.layout != torch.strided:
        if unit_dim is None:
            return _sparse_products(w, g, d, scratch, after=after)
        g = g.to_dense()
    if unit_dim is not None:
        unit_dim %= w.dim()  # a complex tensor's real view has one dimension more at its end
    w, d = _real(w), _real(d)
    g = None if g is None else _real(g)
    if unit_dim is not None:
        w, d = _rows(w, unit_dim), _rows(d, unit_dim)
        return unit_products(w, None if g is None else _rows(g, unit_dim), d, scratch, after=after)
    w, d, *rest = _flat([w, d] if g is None else [w, d, g])
    return total_products(w, rest[0] if rest else None, d, scratch, after=after)


def _sparse_products(w: Tensor, g: Tensor, d: Tensor, scratch: Scratch, *, after: bool) -> Float64[Tensor, "6"]:
    """Products with a sparse gradient, read at its own entries only."""
    g = g.coalesce()
    at = tuple(g.indices())
    touched = block_products(w[at], g.values(), d[at], scratch, after=after)
    whole = block_products(w, None, d, scratch, after=after)
    has_g = torch.tensor([False, True, False, True, True, False], device=whole.device)
    return torch.where(has_g, touched, whole)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _rows(x: Tensor, unit_dim: int) -> Tensor:
    x = x.movedim(unit_dim, 0)
    return x.reshape(x.shape[0], prod(x.shape[1:]))  # -1 is refused where there are no elements


def _flat(tensors: list[Tensor]) -> list[Tensor]:
    """Flat views in one common order: memory order where all share it (channels_last), else logical order."""
    first = tensors[0]
    if not first.is_contiguous() and _dense(first) and all(x.stride() == first.stride() for x in tensors):
        return [x.as_strided((x.numel(),), (1,)) for x in tensors]
    return [x.reshape(-1) for x in tensors]


def _dense(x: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, in any order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
