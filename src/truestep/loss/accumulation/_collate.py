"""Micro-batches joined into the batch that they were cut from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Path = str  # how a leaf is reached, as it would be typed: batch["labels"]


def joined(micro_batches: Sequence[Any]) -> Any:
    """The union of micro-batches: tensors concatenated along dimension 0, in nested dicts, lists, tuples, dataclasses.

    A tensor counts as one of items if its first dimension is that of the micro-batch's first tensor. What is not
    (0-d tensors, masks that all items share, numbers, words) must be equal in all micro-batches, and is kept.

    Raises:
        ValueError: If shapes or values forbid it; names the place.

    Example:
        >>> parts = [{"x": torch.zeros(2, 3), "y": (torch.zeros(2),)}, {"x": torch.ones(1, 3), "y": (torch.ones(1),)}]
        >>> joined(parts)["y"]
        (tensor([0., 0., 1.]),)
    """
    items = [
        next((len(x) for _, x in leaves(batch) if isinstance(x, Tensor) and x.dim()), None) for batch in micro_batches
    ]
    return _zipped(lambda path, parts: _joined_leaf(path, parts, items), "batch", micro_batches)


def fresh(batch: Any) -> Any:
    """The batch copied: a loop that pops its labels, or writes to its inputs, finds them as they were at its next run.

    Containers, tensors, arrays and what has `clone` are copied; other leaves are handed on as they are.

    Example:
        >>> batch = {"x": torch.zeros(2)}
        >>> fresh(batch)["x"].add_(1.0), batch["x"]
        (tensor([1., 1.]), tensor([0., 0.]))
    """
    return _zipped(lambda _, parts: _copied(parts[0]), "batch", [batch])


def leaves(batch: Any, path: Path = "batch") -> Iterator[tuple[Path, Any]]:
    """Every leaf with its place.

    Example:
        >>> [path for path, _ in leaves({"x": [torch.zeros(1), 2]})]
        ['batch["x"][0]', 'batch["x"][1]']
    """
    children = _children(batch, path)
    if children is None:
        yield path, batch
        return
    for where, child in children:
        yield from leaves(child, where)


def _children(x: Any, path: Path) -> list[tuple[Path, Any]] | None:
    """What a container holds; None for a leaf."""
    if isinstance(x, PackedSequence):
        return None
    if isinstance(x, Mapping):
        return [(f'{path}["{key}"]' if isinstance(key, str) else f"{path}[{key!r}]", x[key]) for key in x]
    if isinstance(x, (list, tuple)):
        return [(f"{path}[{i}]", child) for i, child in enumerate(x)]
    if is_dataclass(x) and not isinstance(x, type):
        return [(f"{path}.{field.name}", getattr(x, field.name)) for field in fields(x)]
    return None


def _zipped(function: Callable[[Path, list[Any]], Any], path: Path, parts: Sequence[Any]) -> Any:
    """One container like the first, whose leaves are `function` of the leaves at the same place."""
    first = parts[0]
    inside = [_children(part, path) for part in parts]
    held = inside[0]
    if held is None or all(isinstance(part, list) and _is_words(part) for part in parts):
        return function(path, list(parts))
    names = [where for where, _ in held]
    if any(other is None or [where for where, _ in other] != names for other in inside):
        msg = f"`{path}` is not built alike in all micro-batches; pass `collate`"
        raise ValueError(msg)
    columns = [[other[i][1] for other in inside if other is not None] for i in range(len(held))]
    made = [_zipped(function, where, column) for where, column in zip(names, columns, strict=True)]
    return _rebuilt(first, made)


def _rebuilt(like: Any, values: list[Any]) -> Any:
    if isinstance(like, Mapping):
        pairs = zip(like, values, strict=True)
        if type(like) is dict or not isinstance(like, MutableMapping):
            return dict(pairs)
        made: Any = copy.copy(like)
        for key, value in pairs:
            made[key] = value
        return made
    if isinstance(like, list):
        return values
    if isinstance(like, tuple):
        make: Any = getattr(type(like), "_make", tuple)
        return make(values)
    made = copy.copy(like)
    for field, value in zip(fields(like), values, strict=True):
        object.__setattr__(made, field.name, value)
    return made


def _copied(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.detach().clone().requires_grad_(x.requires_grad)
    if isinstance(x, (PackedSequence, list)) or hasattr(x, "__array__"):
        return copy.deepcopy(x)
    clone = getattr(x, "clone", None)
    return clone() if callable(clone) and not isinstance(x, type) else x


def _joined_leaf(path: Path, parts: list[Any], items: list[int | None]) -> Any:
    if isinstance(parts[0], list):
        return [word for part in parts for word in part]
    if all(isinstance(part, Tensor) and part.dim() for part in parts):
        if [len(part) for part in parts] == items:
            return _concatenated(path, parts)
        if not _equal(parts):
            msg = f"`{path}` has {[len(part) for part in parts]} rows where the micro-batches have {items} items"
            raise ValueError(f"{msg}; pass `collate`")
        return parts[0]
    if _equal(parts):
        return parts[0]
    kind = type(parts[0]).__name__
    if hasattr(parts[0], "__array__") and not isinstance(parts[0], Tensor):
        msg = f"`{path}` ({kind}) is no tensor: give torch tensors (`torch.from_numpy`), or pass `collate`"
        raise ValueError(msg)
    msg = f"`{path}` ({kind}) differs between micro-batches and is no tensor of items; pass `collate`, or leave it out"
    raise ValueError(msg)


def _concatenated(path: Path, parts: list[Tensor]) -> Tensor:
    shapes = list(dict.fromkeys(tuple(part.shape[1:]) for part in parts))
    if len(shapes) > 1:
        msg = f"`{path}` cannot be joined: behind the first dimension its shapes are {shapes[0]} and {shapes[1]}"
        raise ValueError(f"{msg}; pad the micro-batches alike, pass `collate`, or let `loss_fn` give (losses, weights)")
    return torch.cat(parts)


def _equal(parts: list[Any]) -> bool:
    """Whether all parts are equal; False where they cannot tell."""
    first = parts[0]
    if isinstance(first, Tensor):
        return all(
            isinstance(part, Tensor) and first.shape == part.shape and torch.equal(first, part) for part in parts
        )
    try:
        return all(type(part) is type(first) and bool(part is first or part == first) for part in parts)
    except (TypeError, ValueError, RuntimeError):  # arrays, say, whose equality is an array
        return False


def _is_words(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)
