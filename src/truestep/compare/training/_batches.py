"""The batches of many data orders, one tensor for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from truestep.compare.problems import Problem, data_stream
from truestep.compare.problems._supervised import Data, _train_batches, epoch_orders  # pyright: ignore[reportPrivateUsage]
from truestep.compare.training._loop import next_batch
from truestep.compare.training._stackable import NotStackableError


def stacked_batches(problem: Problem, orders: Sequence[int]) -> Iterator[Any]:
    """The problem's batches of each order, along a new first dimension.

    Raises:
        NotStackableError: At a batch that is not made of tensors, or whose shape differs from order to order.

    Example:
        >>> import torch
        >>> from truestep.compare.problems import quadratic
        >>> problem = quadratic(noise=1.0)
        >>> (noise,) = next(stacked_batches(problem, [7, 8]))
        >>> torch.equal(noise[1], next(problem.batches(8))[0])
        True
    """
    source: Any = problem.batches
    if isinstance(source, partial) and source.func is _train_batches and len(source.args) == 2 and not source.keywords:
        splitter, batch_size = source.args
        data = splitter().train
        if 1 <= batch_size <= len(data[0]):  # else `minibatches` says what is wrong
            return _gathered(data, batch_size, orders)
    return _stacked(problem, orders)


def _gathered(data: Data, batch_size: int, orders: Sequence[int]) -> Iterator[Data]:
    """Of data that are all there: one look-up for all orders."""
    epochs = [epoch_orders(len(data[0]), batch_size, data_stream(order)) for order in orders]
    while True:
        index = torch.stack([next(epoch) for epoch in epochs], 1)  # [batches, orders, batch_size]
        on = {x.device: index.to(x.device) for x in data}
        for number in range(len(index)):
            yield tuple(x[on[x.device][number]] for x in data)


def _stacked(problem: Problem, orders: Sequence[int]) -> Iterator[Any]:
    """Of any batches."""
    sources, step = [iter(problem.batches(order)) for order in orders], 0
    while True:
        yield _stack([next_batch(source, step) for source in sources])
        step += 1


def _stack(batches: Sequence[Any]) -> Any:
    flat, structures = zip(*map(tree_flatten, batches), strict=True)
    if any(structure != structures[0] for structure in structures):
        raise NotStackableError("batches differ in what they are made of")
    columns: list[tuple[Any, ...]] = [*zip(*flat, strict=True)]
    for column in columns:
        if not all(isinstance(x, Tensor) for x in column):
            raise NotStackableError(f"a batch is not made of tensors alone, but has {type(column[0]).__name__}")
        if len({(x.shape, x.dtype) for x in column}) > 1:
            raise NotStackableError("batches of a step differ in shape from order to order")
    return tree_unflatten([torch.stack(column) for column in columns], structures[0])
