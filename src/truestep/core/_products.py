"""The six inner products of a Gram, in one pass over cache-sized pieces.

Products of two float32 (or bfloat16, float16) numbers are exact in float64; summed there they
give a nearly radial step its true angle, which float32 sums miss by half. The pieces are
converted into three kept rows: on a CPU fresh memory would cost more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float64
from torch import Tensor

PAIRS = tuple(combinations_with_replacement(range(3), 2))  # ww wg wd gg gd dd: the order of Gram's fields
_CPU_CHUNK = 1 << 17  # 3 MiB of scratch: measured the fastest from 2^12 to 2^20 (benchmarks/bench_gram.py)
_GPU_CHUNK = 1 << 22  # 96 MiB: few launches
_SMALL = 1 << 12  # up to here one 3 x 3 product costs less than six dots: what counts is the number of calls


@cache
def _upper(device: torch.device) -> Tensor:
    """Where the six sums stand in the flat 3 x 3 matrix of all products."""
    return torch.tensor([3 * i + j for i, j in PAIRS], device=device)


def chunk_elements(device: torch.device) -> int:
    """How many elements a pass takes at a time."""
    return _CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK


class Scratch:
    """Three kept float64 rows on one device, for w, g and d."""

    def __init__(self, device: torch.device, elements: int) -> None:
        self.elements = min(elements, chunk_elements(device))
        self._rows = torch.empty(3, self.elements, dtype=torch.float64, device=device)

    def load(self, w: Tensor, g: Tensor | None, d: Tensor, *, after: bool) -> Float64[Tensor, "3 elements"]:
        """Rows holding w, g and d; `after` says that `d` is the weight after the step, not the displacement."""
        rows = self._rows[:, : w.numel()]
        row_w, row_g, row_d = rows.unbind()
        row_w.copy_(w)
        row_d.copy_(d)
        if after:
            row_d.sub_(row_w)  # in float64: exact for every narrower dtype
        if g is None:
            row_g.zero_()
        else:
            row_g.copy_(g)
        return rows


def total_products(w: Tensor, g: Tensor | None, d: Tensor, scratch: Scratch, *, after: bool) -> Float64[Tensor, "6"]:
    """The six sums over all elements of one block; no host sync."""
    if 0 < w.numel() <= min(_SMALL, scratch.elements):
        rows = scratch.load(w, g, d, after=after)
        return torch.mm(rows, rows.T).view(9).take(_upper(w.device))
    sums: list[Tensor] = []
    for part in _pieces(w.numel(), scratch.elements):
        rows = scratch.load(w[part], None if g is None else g[part], d[part], after=after)
        each = rows.unbind()
        sums += [torch.dot(each[i], each[j]) for i, j in PAIRS]
    if not sums:
        return torch.zeros(6, dtype=torch.float64, device=w.device)
    return torch.stack(sums).view(-1, 6).sum(0)


def unit_products(
    w: Tensor, g: Tensor | None, d: Tensor, scratch: Scratch, *, after: bool
) -> Float64[Tensor, "units 6"]:
    """The six sums of each row of `w`, `g`, `d` ([units, elements of a unit])."""
    units, width = w.shape
    if w.numel() == 0:
        return torch.zeros(units, 6, dtype=torch.float64, device=w.device)
    if width > scratch.elements:
        each = range(units)
        return torch.stack(
            [total_products(w[u], None if g is None else g[u], d[u], scratch, after=after) for u in each]
        )
    sums = torch.zeros(units, 6, dtype=torch.float64, device=w.device)
    for part in _pieces(units, scratch.elements // width):
        flat = [None if x is None else x[part].reshape(-1) for x in (w, g, d)]
        loaded = scratch.load(flat[0], flat[1], flat[2], after=after)  # type: ignore[arg-type]
        rows = [row.view(-1, width) for row in loaded.unbind()]
        for column, (i, j) in enumerate(PAIRS):
            sums[part, column] = torch.linalg.vecdot(rows[i], rows[j])
    return sums


def _pieces(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, max(size, 1)):
        yield slice(start, min(start + size, total))
