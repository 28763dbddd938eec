"""Records of sums over ranks and steps; all their fields are tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from truestep.core import AbstractSum
from truestep.core._additive import reduced

Record = TypeVar("Record", bound=AbstractSum)


def tensors_of(record: AbstractSum) -> list[Tensor]:
    """Fields of a record in their order."""
    kind: Any = type(record)
    return [getattr(record, field.name) for field in fields(kind)]


def mapped(function: Callable[..., Tensor], *records: Record) -> Record:
    """The record whose fields are `function` of the fields of `records`."""
    return type(records[0])(*map(function, *map(tensors_of, records)))


def decayed(before: Record | None, new: Record, ema: int | float) -> Record:
    r"""Sums that forget, :math:`S \leftarrow \text{ema}\,S + \text{new}`: a ratio of them needs no bias correction.

    Example:
        >>> from truestep.core import sum_count
        >>> decayed(sum_count(torch.tensor([8.0])), sum_count(torch.tensor([1.0])), 0.5).mean
        tensor(3.3333, dtype=torch.float64)
    """

    def mix(old: Tensor, x: Tensor) -> Tensor:
        return torch.add(x, old, alpha=ema)

    return new if before is None or not ema else mapped(mix, before, new)


def unless(found: Tensor, before: Record | None, new: Record) -> Record:
    """`new`, or `before` (zeros for None) where `found` is not 0; decided on the device."""

    def choose(old: Tensor, x: Tensor) -> Tensor:
        return torch.where(found.to(x.device).reshape(()) != 0, old, x)

    return mapped(choose, mapped(torch.zeros_like, new) if before is None else before, new)


def all_reduced(records: Mapping[str, Record], group: dist.ProcessGroup | None = None) -> dict[str, Record]:
    """Sum of each record over the ranks of `group`, in one collective, which all must join with the same records."""
    tensors = [tensor for record in records.values() for tensor in tensors_of(record)]
    home = tensors[0].device
    flat = reduced(torch.cat([tensor.reshape(-1).to(home) for tensor in tensors]), group)
    parts = iter(flat.split([tensor.numel() for tensor in tensors]))

    def part(x: Tensor) -> Tensor:
        return next(parts).view_as(x).to(x)

    return {name: mapped(part, record) for name, record in records.items()}
