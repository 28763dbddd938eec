"""Sum first, divide last: what every record has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor


class AbstractSum:
    """A record whose tensors are sums over elements; parts add up to the whole, exactly as far as float64 is exact.

    Fields that are not tensors (names, say) must be equal in all the parts.
    """

    __slots__ = ()

    def __add__(self, other: Self) -> Self:
        """Field by field; the records of two parts become the record of their union."""
        if type(other) is not type(self):
            return NotImplemented

        def add(name: str, mine: Any) -> Any:
            return _added(name, mine, getattr(other, name))

        return _map(self, add)

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Self:
        """Sum over the ranks of `group` (default: all), in one collective; without a process group, `self`.

        Every rank of the group must call it. The tensors stay on their device.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return self
        tensors = [value for _, value in _items(self) if isinstance(value, Tensor)]
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        flat = reduced(flat, group)
        parts = iter(flat.split([tensor.numel() for tensor in tensors]))

        def part(_: str, value: Any) -> Any:
            return next(parts).view_as(value) if isinstance(value, Tensor) else value

        return _map(self, part)


def reduced(flat: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """`flat` summed over the ranks; through the GPU where the backend knows nothing else."""
    home = flat.device
    if home.type == "cpu" and "nccl" in dist.get_backend(group):
        flat = flat.cuda()
    dist.all_reduce(flat, group=group)
    return flat.to(home)


def _items(record: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(record, field.name)) for field in fields(record)]


def _map(record: Any, function: Callable[[str, Any], Any]) -> Any:
    return type(record)(**{name: function(name, value) for name, value in _items(record)})


def _added(name: str, mine: Any, other: Any) -> Any:
    if isinstance(mine, Tensor):
        if mine.shape != other.shape:  # torch would broadcast, and count one block several times
            msg = f"`{name}` has shape {tuple(mine.shape)} and {tuple(other.shape)}: records add up block by block"
            raise ValueError(msg)
        return mine + other
    if mine != other:
        msg = f"`{name}` differs: records add up only over equal {name}; found {mine} and {other}"
        raise ValueError(msg)
    return mine
