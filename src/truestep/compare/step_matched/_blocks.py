"""Which rows of which weights are one block, in each scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.compare.step_matched._extent import num_rows
from truestep.core import is_distributed

Scope = Literal["global", "group", "tensor", "unit"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True)
class Blocks:
    """The weights that a step can move, and how their rows make up blocks.

    Args:
        scope: What is one block.
        params: The weights, group by group.
        groups: Number of each weight's parameter group.
        places: Place of each weight in its group.
        rows: Number of rows that each weight is cut into: its units, or one.
        sizes: Number of rows that each block has.
    """

    scope: Scope
    params: tuple[Tensor, ...]
    groups: tuple[int, ...]
    places: tuple[int, ...]
    rows: tuple[int, ...]
    sizes: tuple[int, ...]

    def names(self, groups: Sequence[dict[str, Any]]) -> tuple[str, ...]:
        """One name a block, of the `groups` of the optimizer: those it was given, else group and place."""
        if self.scope == "global":
            return ("all",)
        if self.scope == "group":
            return tuple(f"group {group}" for group in dict.fromkeys(self.groups))
        names: list[str] = []
        for number, (x, given, rows) in enumerate(zip(self.params, self.given(groups), self.rows, strict=True)):
            name = f"group {self.groups[number]}, tensor {self.places[number]}" if given is None else given
            units = self.scope == "unit" and x.dim() > 1
            names += [f"{name}[{row}]" for row in range(rows)] if units else [name]
        return tuple(names)

    def given(self, groups: Sequence[dict[str, Any]]) -> list[str | None]:
        """The name that each weight was given with, None where the optimizer was built of bare parameters."""
        names = [groups[group].get("param_names") for group in self.groups]
        return [None if name is None else name[place] for name, place in zip(names, self.places, strict=True)]

    def of_weights(self, column: Float64[Tensor, " blocks"]) -> tuple[Float64[Tensor, " rows"], ...]:
        """The value of each block at its rows, weight by weight."""
        if any(size > 1 for size in self.sizes):
            column = torch.cat([value.expand(size) for value, size in zip(column, self.sizes, strict=True)])
        return column.split(list(self.rows))


def list_blocks(optimizer: Optimizer, scope: Scope) -> Blocks:
    """The blocks of the weights that want a gradient or have one.

    Raises:
        ValueError: If a weight is a DTensor, or none is left.

    Example:
        >>> import torch
        >>> blocks = list_blocks(torch.optim.SGD(torch.nn.Linear(3, 2).parameters()), "unit")
        >>> blocks.rows, blocks.sizes
        ((2, 1), (1, 1, 1))
    """
    places = {  # by weight: torch lets one stand twice in a group
        id(p): (p, number, place)
        for number, group in enumerate(optimizer.param_groups)
        for place, p in enumerate(group["params"])
        if p.numel() and (p.requires_grad or p.grad is not None)
    }
    found = list(places.values())
    if not found or any(is_distributed(p) for p, _, _ in found):
        what = "a DTensor (FSDP2, tensor parallel)" if found else "none"
        msg = f"`optimizer` must hold weights that want a gradient, whole on each rank (DDP is), found {what}"
        raise ValueError(msg)
    params, groups, numbers = zip(*found, strict=True)
    rows = tuple(num_rows(p, units=scope == "unit") for p in params)
    return Blocks(scope, params, groups, numbers, rows, _sizes(scope, groups, rows))


def _sizes(scope: Scope, groups: tuple[int, ...], rows: tuple[int, ...]) -> tuple[int, ...]:
    if scope == "global":
        return (len(rows),)
    if scope == "group":
        return tuple(groups.count(group) for group in dict.fromkeys(groups))
    return (1,) * sum(rows)
