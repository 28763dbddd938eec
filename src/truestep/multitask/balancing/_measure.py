"""From the gradients at the features to squared norms and inner products: there, or at a shared weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Float64
from torch import Tensor

from truestep.core import squared_norms, task_gram
from truestep.multitask._rule import PerTask
from truestep.multitask.balancing._at_weight import LinearBelow, weight_gradients
from truestep.multitask.balancing._heads import Gradients
from truestep.multitask.balancing._split import Split

Found = dict[str, Float64[Tensor, ""]]  # squared norm by task
Vector = Float[Tensor, " elements"]


def squares_of(found: Gradients) -> Found:
    """Squared norm of each task's gradient; all tensors in one fused pass."""
    tensors = [g for grads in found.values() for g in grads if g is not None]
    owners = [task for task, grads in found.items() for g in grads if g is not None]
    out: Found = {}
    for task, square in zip(owners, squared_norms(tensors).unbind() if tensors else (), strict=True):
        out[task] = out[task] + square if task in out else square
    return out


def gram_of(found: Gradients, features: Sequence[Tensor]) -> Float64[Tensor, "some some"]:
    """Inner products of the gradients, in the order of `found`."""
    total = torch.zeros(len(found), len(found), dtype=torch.float64, device=features[0].device)
    for i, x in enumerate(features):
        column = {task: torch.zeros_like(x) if (g := grads[i]) is None else g for task, grads in found.items()}
        total += task_gram(column).gg
    return total


def linear_squares(found: Gradients, split: Split, weights: Sequence[Tensor]) -> Found | None:
    """Squared norms at one Linear weight without its gradients; None where that is not to be had."""
    linear = LinearBelow.find(split.features, weights[0]) if len(weights) == 1 else None
    if linear is None:
        return None
    return {task: linear.square(*_given(split, grads)) for task, grads in found.items()}


def weight_vectors(found: Gradients, split: Split, weights: Sequence[Tensor]) -> Iterator[tuple[str, Vector]]:
    """Gradient of one task after the other at the weights, from those at the features."""
    for task, grads in found.items():
        yield task, weight_gradients(*_given(split, grads), weights)


def weight_vectors_below(
    losses: Mapping[str, Tensor], scale: Mapping[str, Tensor] | None, weights: Sequence[Tensor]
) -> Iterator[tuple[str, Vector]]:
    """The same where nothing was split: each loss goes down to the weights on its own."""
    for task, loss in losses.items():
        if loss.requires_grad:
            yield task, weight_gradients([loss], [None if scale is None else scale[task]], weights)


class Vectors:
    """Gradients at the weights, added over the micro-batches of a window: their norms do not add up. A kept buffer."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self.tasks = tasks
        self.sum: Float[Tensor, "tasks elements"] | None = None

    def add(self, task: str, vector: Vector, factor: Float64[Tensor, ""]) -> None:
        """Add a task's gradient, times a factor."""
        if self.sum is None or self.sum.shape[1] != vector.numel():
            self.sum = vector.new_zeros(len(self.tasks), vector.numel())
        self.sum = self.sum.to(vector.device)  # what was loaded may lie elsewhere
        self.sum[self.tasks.index(task)].addcmul_(vector, factor.to(vector))

    def gram(
        self, weights: Sequence[Tensor], group: dist.ProcessGroup | None, *, keep: bool
    ) -> Float64[Tensor, "tasks tasks"]:
        """Inner products of the sums over the window and the ranks, which all call this; unless `keep`, then zero."""
        if self.sum is None:
            wide = torch.promote_types(weights[0].dtype, torch.float32)
            self.sum = weights[0].new_zeros(len(self.tasks), sum(w.numel() for w in weights), dtype=wide)
        total = self.sum.clone() if keep else self.sum
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total, group=group)
        found = task_gram(dict(zip(self.tasks, total.unbind(), strict=True))).gg
        if not keep:
            self.sum.zero_()
        return found


def spread(found: Mapping[str, Tensor], tasks: Sequence[str], device: torch.device) -> PerTask:
    """One float64 entry a task, 0 for those not found."""
    if len(found) == len(tasks) and len({(x.dtype, x.device) for x in found.values()}) == 1:
        return torch.stack([found[task] for task in tasks]).to(device, torch.float64)
    zero = torch.zeros((), dtype=torch.float64, device=device)
    return torch.stack([found[task].to(zero) if task in found else zero for task in tasks])


def _given(split: Split, grads: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor | None]]:
    """Features and their gradients, those left out that have none."""
    pairs = [(x, g) for x, g in zip(split.features, grads, strict=True) if g is not None]
    return [x for x, _ in pairs], [g for _, g in pairs]
