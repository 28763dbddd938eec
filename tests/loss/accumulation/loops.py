"""Small models, their windows, and loops over them: one that is right, and the mistakes that people make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batch = dict[str, Tensor]
Loop = Callable[[Any, Sequence[Batch]], None]


def mlp(*, dtype: torch.dtype = torch.float64, norm: type[nn.Module] | None = None) -> nn.Sequential:
    layers = [nn.Linear(6, 16), *([norm(16)] if norm else []), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3)]
    return nn.Sequential(*layers).to(dtype)


def window(*sizes: int, dtype: torch.dtype = torch.float64) -> list[Batch]:
    return [{"x": torch.randn(n, 6, dtype=dtype), "y": torch.randint(0, 3, (n,))} for n in sizes]


def mean(model: Any, batch: Batch) -> Tensor:
    return cross_entropy(model(batch["x"]), batch["y"])


def summed(model: Any, batch: Batch) -> Tensor:
    return cross_entropy(model(batch["x"]), batch["y"], reduction="sum")


def weighted(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    losses = cross_entropy(model(batch["x"]), batch["y"], reduction="none")
    return losses, batch.get("weight", torch.ones_like(losses))


def each(loss: Callable[[Any, Batch], Tensor], scale: Callable[[int], float] = lambda k: 1.0) -> Loop:
    """A loop that calls backward for each micro-batch, its loss times a number that may depend on their number."""

    def loop(model: Any, micro_batches: Sequence[Batch]) -> None:
        for batch in micro_batches:
            (loss(model, batch) * scale(len(micro_batches))).backward()

    return loop


def right(model: Any, micro_batches: Sequence[Batch]) -> None:
    """Sum, count, divide once."""
    total = sum(len(batch["y"]) for batch in micro_batches)
    for batch in micro_batches:
        (summed(model, batch) / total).backward()


class Tokens(nn.Module):
    """A causal language model of 11 words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.reads = nn.Embedding(11, 8), nn.GRU(8, 8, 2, batch_first=True, dropout=0.5)
        self.tells = nn.Linear(8, 11)

    def forward(self, ids: Tensor) -> Tensor:
        return self.tells(self.reads(self.words(ids))[0])


def tokens(*lengths: int, items: int = 3) -> list[Batch]:
    """Micro-batches of padded sentences; only the first tokens of each have labels."""
    made: list[Batch] = []
    for length in lengths:
        ids = torch.randint(0, 11, (items, 16))
        labels = ids.clone()
        labels[:, length:] = -100
        made.append({"ids": ids, "labels": labels})
    return made


def next_words(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    targets = batch["labels"][:, 1:]
    losses = cross_entropy(model(batch["ids"])[:, :-1].transpose(1, 2), targets, reduction="none")
    return losses, (targets != -100).to(losses.dtype)
