"""What a window saw of the tasks, as sums: micro-batches and ranks add up, and ratios are taken last."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core import AbstractSum
from truestep.multitask._rule import PerTask


@dataclass(frozen=True, slots=True)
class TaskSums(AbstractSum):
    r"""Sums over the micro-batches and ranks of a window, one entry a task.

    A micro-batch gives the mean loss :math:`L` over :math:`n` of its terms, and the gradient :math:`g` of that mean at
    its own rows of the shared features. The gradient of the window's mean has the rows :math:`n g/N`, so that its
    squared norm is :math:`\sum n^2 \|g\|^2 / N^2` with :math:`N = \sum n`: squares and normaliser add up apart.

    Args:
        tasks: Names, in the order of all entries.
        loss: :math:`\sum n L`.
        count: :math:`\sum n`; 0 where the task was absent.
        measured: :math:`\sum n` over what had its gradient measured.
        squares: :math:`\sum n^2 \|g\|^2`.
        gram: :math:`\sum n_i n_j \langle g_i, g_j \rangle`; no rows where only norms are measured.
        kpi: Sum of the KPIs told.
        kpis: Their number.
    """

    tasks: tuple[str, ...]
    loss: PerTask
    count: PerTask
    measured: PerTask
    squares: PerTask
    gram: Float64[Tensor, "rows rows"]
    kpi: PerTask
    kpis: PerTask

    def to(self, device: torch.device) -> TaskSums:
        """The same on another device: a window that was loaded, say."""
        if self.loss.device == device:
            return self
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "tasks"}
        return replace(self, **moved)

    @property
    def losses(self) -> PerTask:
        """Mean loss of each task; nan where it was absent."""
        return self.loss / self.count

    @property
    def norms(self) -> PerTask:
        """Norm of the gradient of each mean loss; nan where none was measured."""
        return self.squares.clamp_min(0.0).sqrt() / self.measured

    @property
    def inner(self) -> Float64[Tensor, "rows rows"] | None:
        """Inner products of the gradients of the mean losses, 0 for tasks without; None where not measured."""
        if not len(self.gram):
            return None
        pairs = torch.outer(self.measured, self.measured)
        return torch.where(pairs > 0, self.gram / pairs, 0.0)

    @property
    def told(self) -> PerTask:
        """Mean of the KPIs told; nan where there is none."""
        return self.kpi / self.kpis
