"""A problem from tensors (inputs, targets): one fixed split, epochs in a seeded order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from truestep.compare.problems._problem import Problem
from truestep.compare.problems._seeds import data_stream

SPLIT_SEED: Final = 0  # every problem and every seed sees the same split
PROBE: Final = 512  # training samples that losses are compared on

Data = tuple[Tensor, ...]  # of one length: inputs, targets


def minibatches(data: Data, batch_size: int, seed: int) -> Iterator[Data]:
    """Batches without end: every epoch in a new order, each sample at most once in it, the short rest left out.

    The order is drawn on the CPU: it is the same wherever the data are.

    Raises:
        ValueError: If the data are fewer than one batch.

    Example:
        >>> import torch
        >>> batches = minibatches((torch.arange(6),), 3, seed=0)
        >>> sorted(torch.cat([*next(batches), *next(batches)]).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    if not 1 <= batch_size <= len(data[0]):
        raise ValueError(f"`batch_size` must be from 1 to {len(data[0])}, the training samples, found {batch_size}")
    return _epochs(data, batch_size, data_stream(seed))


def _epochs(data: Data, batch_size: int, generator: torch.Generator) -> Iterator[Data]:
    """A generator of its own, so that `minibatches` refuses at once and not at the first batch."""
    for epoch in epoch_orders(len(data[0]), batch_size, generator):
        for index in epoch:
            yield tuple(x[index.to(x.device)] for x in data)


def epoch_orders(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """For each epoch without end, the samples of its batches by number, [batches, batch_size].

    Example:
        >>> import torch
        >>> next(epoch_orders(5, 2, torch.Generator().manual_seed(0))).shape
        torch.Size([2, 2])
    """
    while True:
        order = torch.randperm(count, generator=generator)
        yield order[: count // batch_size * batch_size].view(-1, batch_size)


@dataclass(frozen=True, slots=True)
class Split:
    """Data cut once: what is trained on, and what is not."""

    train: Data
    held_out: Data


@dataclass(frozen=True, slots=True)
class Splitter:
    """Loads data and cuts them, the same way every time; a function that can be pickled and hashed.

    Args:
        load: Gives the whole data.
        share: How much of them is held out.
        standardize: Give every input feature mean 0 and variance 1 over the training part.
        device: Where the data go.
    """

    load: Callable[[], Data]
    share: int | float = 0.2
    standardize: bool = False
    device: str = "cpu"

    def __call__(self) -> Split:
        """Load and cut; a process keeps its last four, so whatever is handed out must be a copy."""
        return _loaded(replace(self, load=_by_content(self.load)))


@dataclass(frozen=True, slots=True)
class _Call:
    """A partial by what it calls: of one that was pickled for every trial of a sweep the data are loaded once."""

    function: Callable[..., Data]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    files: tuple[Any, ...]

    def __call__(self) -> Data:
        return self.function(*self.arguments, **dict(self.keywords))


def _by_content(load: Callable[[], Data]) -> Callable[[], Data]:
    if not isinstance(load, partial):
        return load
    keywords = tuple(load.keywords.items())
    call = _Call(load.func, load.args, keywords, tuple(map(_stamp, (*load.args, *load.keywords.values()))))
    try:
        hash(call)
    except TypeError:  # a list among the arguments
        return load
    return call


def _stamp(argument: object) -> tuple[tuple[int, int], ...]:
    """Of a file, or of a folder and what lies in it, time and size: what was written anew is read anew."""
    if not argument or not isinstance(argument, str | PathLike) or not Path(argument).exists():
        return ()
    path = Path(argument)
    found = [each.stat() for each in (path, *(sorted(path.iterdir()) if path.is_dir() else ()))]
    return tuple((each.st_mtime_ns, each.st_size) for each in found)


@lru_cache(maxsize=4)
def _loaded(splitter: Splitter) -> Split:
    data = splitter.load()
    if len({len(x) for x in data}) != 1:
        raise ValueError(f"`load` must give tensors of one length, found {[len(x) for x in data]}")
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(SPLIT_SEED))
    count = round(len(order) * (1 - splitter.share))
    train, rest = ([x[i.to(x.device)] for x in data] for i in (order[:count], order[count:]))
    if splitter.standardize:
        deviation, mean = torch.std_mean(train[0], 0, correction=0)
        deviation = torch.where(deviation == 0, 1, deviation)  # a constant feature becomes 0
        train[0], rest[0] = ((x - mean) / deviation for x in (train[0], rest[0]))
    return Split(*(tuple(x.to(splitter.device) for x in part) for part in (train, rest)))


def supervised(
    name: str,
    load: Callable[[], Data],
    build: Callable[[int], nn.Module],
    loss_fn: Callable[[Any, Any], Any],
    *,
    target: float | int,
    max_steps: int,
    batch_size: int = 64,
    held_out: int | float = 0.2,
    standardize: bool = False,
    device: str = "cpu",
) -> Problem:
    """A problem from data. The probe is a fixed part of the training data: what an optimizer can be asked to lower.

    Args:
        name: The problem's name.
        load: Gives (inputs, targets), tensors of one length: an importable function or a partial of one.
        build: Gives the model with the weights of a seed; it is moved to `device` afterwards.
        loss_fn: `loss_fn(model, batch)`; see `cross_entropy_loss`, `binary_loss`, `squared_loss`.
        target: Mean loss on the probe that counts as solved.
        max_steps: Where a run ends.
        batch_size: Samples a step.
        held_out: Share of the data that is not trained on.
        standardize: Give every input feature mean 0 and variance 1 over the training part.
        device: Where data and model live. Random numbers are drawn on the CPU: they are the same on every device.

    Raises:
        ValueError: If `held_out` is no share of the data.

    Example:
        >>> from functools import partial
        >>> from torch import nn
        >>> from truestep.compare.problems import cross_entropy_loss, read_idx_data, seeded
        >>> def build(seed):
        ...     with seeded(seed):
        ...         return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
        >>> load = partial(read_idx_data, "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
        >>> mnist = supervised("mnist", load, build, cross_entropy_loss, target=0.1, max_steps=1000)
        >>> mnist.name  # the files are read when the first batch is asked for
        'mnist'
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"`held_out` must be a share of the data, from 0 to below 1, found {held_out}")
    splitter = Splitter(load, held_out, standardize, device)
    return Problem(
        name,
        partial(_built, build, device),
        partial(_train_batches, splitter, batch_size),
        loss_fn,
        partial(_probe, splitter),
        target,
        max_steps,
        partial(_held_out, splitter) if held_out else None,
    )


def _built(build: Callable[[int], nn.Module], device: str, seed: int) -> nn.Module:
    return build(seed).to(device)


def _train_batches(splitter: Splitter, batch_size: int, seed: int) -> Iterator[Data]:
    return minibatches(splitter().train, batch_size, seed)


def _probe(splitter: Splitter) -> Data:
    return tuple(x[:PROBE].clone() for x in splitter().train)


def _held_out(splitter: Splitter) -> Data:
    return tuple(x.clone() for x in splitter().held_out)
