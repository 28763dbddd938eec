"""What a micro-batch shows of the tasks, measured where the balancer was told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor

from truestep.core import squared_norms, warn
from truestep.multitask._kept import Kept
from truestep.multitask._rule import PerTask, Reads, only
from truestep.multitask.balancing._at_weight import Layer, casts, shared_weights, used
from truestep.multitask.balancing._heads import Gradients, check_own_views, head_gradients
from truestep.multitask.balancing._loss_scale import LossScale, seeds
from truestep.multitask.balancing._measure import (
    Found,
    Vector,
    Vectors,
    gram_of,
    linear_squares,
    spread,
    squares_of,
    weight_vectors,
    weight_vectors_below,
)
from truestep.multitask.balancing._split import Split, in_half
from truestep.multitask.balancing._task_sums import TaskSums

Losses = Mapping[str, Tensor]
Gram = Float64[Tensor, "rows rows"]


class Gauge(Kept):
    """Turns the losses of a micro-batch into `TaskSums`.

    Args:
        tasks: Names.
        reads: What is wanted: losses, norms, or all inner products.
        layer: Where gradients are taken; None is at the features.
    """

    def __init__(self, tasks: tuple[str, ...], reads: Reads, layer: Layer | None) -> None:
        super().__init__()
        self.tasks, self.reads = tasks, reads
        self.weights = None if layer is None else (*shared_weights(layer),)  # in a tuple they stay the model's alone
        self.vectors = Vectors(tasks)
        self._fresh = set(tasks)  # whose views were not looked at yet
        self._uses: int | None = None  # of the weights, once they were looked for
        self._half = False  # whether float16 may take part below the losses
        self._warned = False
        self.loss_scale = LossScale(tasks)

    def __call__(self, losses: Losses, count: PerTask, split: Split | None, *, alone: bool) -> TaskSums:
        """Sums of one micro-batch; `alone` says that it is the whole window on the only rank."""
        with torch.no_grad():
            total = only(count > 0, spread(losses, self.tasks, count.device) * count)
        zero, gram = _nothing(len(self.tasks), count.device), self._no_gram(count.device)
        sums = TaskSums(self.tasks, total, count, zero, zero, gram, zero, zero)
        trained = {task: loss for task, loss in losses.items() if loss.requires_grad}
        if self.reads == "losses" or not trained:
            return sums
        try:
            found = self._gradients(sums, trained, split, alone=alone)
        except RuntimeError as error:  # autograd's: our extra pass must not stop the training
            if not self._warned:
                self._warned = True
                warn(f"truestep: the tasks' gradients could not be measured, weights stay as they are: {error}")
            return sums
        if len(trained) == len(losses):
            return replace(found, measured=count)
        there = torch.tensor([task in trained for task in self.tasks], device=count.device)
        return replace(found, measured=count * there)

    def settle(self, sums: TaskSums, group: dist.ProcessGroup | None, *, alone: bool, keep: bool) -> TaskSums:
        """At the end of a window, on all ranks: norms at a weight come from the sums of its gradients.

        Those stay for the rest of the window if `keep`.
        """
        if self.weights is None or self.reads == "losses" or (alone and self.reads == "norms"):
            return sums
        gram = self.vectors.gram(self.weights, group, keep=keep)
        return replace(sums, squares=gram.diagonal(), gram=gram if self.reads == "gram" else sums.gram)

    def _gradients(self, sums: TaskSums, losses: Losses, split: Split | None, *, alone: bool) -> TaskSums:
        if split is None:
            return self._below(sums, losses, alone=alone)
        self._look_at_views(losses, split)
        elements = sum(x.numel() for x in split.features)

        def squares(scale: Losses) -> Found:
            return squares_of(head_gradients(losses, split, scale))

        scale = self.loss_scale.fitting(squares, elements, half=split.in_half)
        found = head_gradients(losses, split, seeds(self.tasks, scale) if split.in_half else None)
        if split.in_half:
            self.loss_scale.follow(squares_of(found), elements)
        if self.weights is None:
            return self._of_features(sums, found, split, scale)
        uses = self._look_for_weights(split.features, self.weights)
        if alone and self.reads == "norms" and uses == 1:
            linear = linear_squares(found, split, self.weights)
            if linear is not None:
                return _scaled(sums, spread(linear, self.tasks, scale.device), sums.gram, scale)
        return self._of_vectors(sums, weight_vectors(found, split, self.weights), scale, alone=alone)[0]

    def _below(self, sums: TaskSums, losses: Losses, *, alone: bool) -> TaskSums:
        """Where nothing was split: each loss goes down to the weights on its own."""
        assert self.weights is not None
        weights = self.weights
        self._look_for_weights([*losses.values()], weights)

        def squares(scale: Losses) -> Found:
            return {t: squared_norms([x])[0] for t, x in weight_vectors_below(losses, scale, weights)}

        elements = sum(w.numel() for w in weights)
        scale = self.loss_scale.fitting(squares, elements, half=self._half)
        vectors = weight_vectors_below(losses, seeds(self.tasks, scale), weights)
        sums, found = self._of_vectors(sums, vectors, scale, alone=alone)
        if self._half:
            self.loss_scale.follow(found, elements)
        return sums

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_uses": None}  # a copy may have lost its model

    def _of_features(self, sums: TaskSums, found: Gradients, split: Split, scale: PerTask) -> TaskSums:
        squares = spread(squares_of(found), self.tasks, scale.device)
        gram = self._spread_gram(gram_of(found, split.features), found) if self.reads == "gram" else sums.gram
        return _scaled(sums, squares, gram, scale)

    def _of_vectors(
        self, sums: TaskSums, vectors: Iterator[tuple[str, Vector]], scale: PerTask, *, alone: bool
    ) -> tuple[TaskSums, Found]:
        """Norms of the gradients at the weights, one after the other; or their sums kept until the window ends."""
        single = alone and self.reads == "norms"
        squares: Found = {}
        for task, vector in vectors:
            i = self.tasks.index(task)
            if not single:
                self.vectors.add(task, vector, sums.count[i] / scale[i])
            squares[task] = squared_norms([vector])[0]
        return _scaled(sums, spread(squares, self.tasks, scale.device), sums.gram, scale) if single else sums, squares

    def _look_at_views(self, losses: Losses, split: Split) -> None:
        """See, once for each task, that its loss reads its own view alone."""
        if fresh := self._fresh & set(losses):
            check_own_views(losses, split, fresh)
            self._fresh -= fresh

    def _look_for_weights(self, outputs: Sequence[Tensor], weights: Sequence[Tensor]) -> int:
        """How often the weights are used; looked for once, in the whole graph."""
        if self._uses is None:
            self._uses = used(outputs, weights)
            self._half = in_half(weights) or casts(outputs)
        if self._uses == 0:
            self._uses = None
            msg = (
                "`layer` takes no part in the losses: give a layer below the features, of the model that computed them"
                " (not of its copy), and none inside a reentrant checkpoint"
            )
            raise ValueError(msg)
        return self._uses

    def _no_gram(self, device: torch.device) -> Gram:
        rows = len(self.tasks) if self.reads == "gram" else 0
        return torch.zeros(rows, rows, dtype=torch.float64, device=device) if rows else _no_rows(device)

    def _spread_gram(self, some: Float64[Tensor, "some some"], found: Gradients) -> Gram:
        """Inner products of some tasks' gradients at the places of all."""
        at = torch.tensor([self.tasks.index(task) for task in found], device=some.device)
        whole = self._no_gram(some.device)
        whole[at[:, None], at] = some
        return whole


@lru_cache(maxsize=64)
def _nothing(tasks: int, device: torch.device) -> PerTask:
    """Zeros that nobody writes to."""
    return torch.zeros(tasks, dtype=torch.float64, device=device)


@lru_cache(maxsize=8)
def _no_rows(device: torch.device) -> Gram:
    return torch.zeros(0, 0, dtype=torch.float64, device=device)


def _scaled(sums: TaskSums, squares: PerTask, gram: Gram, scale: PerTask) -> TaskSums:
    """The sums with what was measured of the scaled losses."""
    factor = sums.count / scale
    products = gram * torch.outer(factor, factor) if len(gram) else gram
    return replace(sums, squares=squares * factor**2, gram=products)
