"""From kept weights, used gradients and the weights as they stand now to one row of six sums a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import nan

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.core._block import block_products
from truestep.core._kept import Used
from truestep.core._products import Scratch, chunk_elements
from truestep.core._sharding import add_shards, at_global_units, local, shards


@dataclass(frozen=True, slots=True)
class Block:
    """A parameter that an optimizer can move: its name, its group's number, and the dimension of its units."""

    name: str
    param: Tensor
    group: int
    unit_dim: int | None


def list_blocks(
    names: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]], optimizer: Optimizer, units: AbstractSet[str]
) -> list[Block]:
    """Named parameters of the optimizer that its next step can move; frozen ones cost no copy.

    A parameter is listed if it wants a gradient or still has one: torch's optimizers go by `.grad` alone.
    """
    named = names() if callable(names) else names
    name_of = {id(p): name for name, p in reversed(list(named.items()))}  # a tied weight has its first name
    blocks: list[Block] = []
    for number, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            name = name_of.get(id(p))
            if name is not None and (p.requires_grad or p.grad is not None):
                blocks.append(Block(name, p, number, 0 if name in units and p.dim() > 0 else None))
    return blocks


def measure(
    blocks: Sequence[Block],
    before: Sequence[Tensor | None],
    used: Used,
    scale: Tensor | float | None,
    scratch: dict[torch.device, Scratch],
) -> tuple[tuple[str, ...], list[Float64[Tensor, "_ 6"]], list[Exception]]:
    """Names of blocks or units, and each block's rows of ww, wg, wd, gg, gd, dd on the CPU, summed over shards.

    A block that cannot be measured has nan rows, so that no other rank waits for it, and its exception comes third.
    """
    errors: list[Exception] = []
    columns: list[Tensor] = []
    for block, w, g in zip(blocks, before, used.grads, strict=True):
        try:
            columns.append(_rows(block, w, g, scratch))
        except Exception as error:  # noqa: BLE001
            errors.append(error)
            columns.append(_unknown(block))
    columns = add_shards(columns, [shards(block.param) for block in blocks])
    columns = _to_cpu([_true_gradient(rows, scale, known=used.known) for rows in columns])
    names = [name for block, rows in zip(blocks, columns, strict=True) for name in _row_names(block, rows)]
    return tuple(names), columns, errors


def _rows(
    block: Block, w: Tensor | None, g: Tensor | None, scratch: dict[torch.device, Scratch]
) -> Float64[Tensor, "rows 6"]:
    now = local(block.param)
    if w is None or w.shape != now.shape:  # resized within the step: there is no displacement to speak of
        return _unknown(block)
    elements = 2 * now.numel() if now.is_complex() else now.numel()
    kept = scratch.get(now.device)
    if kept is None or kept.elements < min(elements, chunk_elements(now.device)):
        kept = scratch[now.device] = Scratch(now.device, elements)
    rows = block_products(w, g, now, kept, after=True, unit_dim=block.unit_dim)
    return rows[None] if block.unit_dim is None else at_global_units(rows, block.param, block.unit_dim)


def _unknown(block: Block) -> Float64[Tensor, "rows 6"]:
    rows = 1 if block.unit_dim is None else block.param.shape[block.unit_dim]
    return torch.full((rows, 6), nan, dtype=torch.float64, device=local(block.param).device)


def _true_gradient(
    rows: Float64[Tensor, "rows 6"], scale: Tensor | float | None, *, known: bool
) -> Float64[Tensor, "rows 6"]:
    """Products of the gradient itself: without the gradient scaler's scale, nan where it is not known."""
    if scale is None and known:
        return rows
    c = 1 / torch.as_tensor(nan if not known else scale, dtype=torch.float64, device=rows.device)
    one = torch.ones_like(c)
    return rows * torch.stack([one, c, one, c * c, c, one])


def _row_names(block: Block, rows: Tensor) -> list[str]:
    if block.unit_dim is None:
        return [block.name]
    return [f"{block.name}[{unit}]" for unit in range(rows.shape[0])]


def _to_cpu(columns: list[Float64[Tensor, "_ 6"]]) -> list[Float64[Tensor, "_ 6"]]:
    """All rows to the host in one transfer a device."""
    out = list(columns)
    for device in {rows.device for rows in columns} - {torch.device("cpu")}:
        members = [i for i, rows in enumerate(columns) if rows.device == device]
        parts = torch.cat([columns[i] for i in members]).cpu().split([columns[i].shape[0] for i in members])
        for i, part in zip(members, parts, strict=True):
            out[i] = part
    return out
