"""What is known of the tasks from the updates so far: the numbers behind a report."""

from __future__ import annotations

import torch
from torch import Tensor

from truestep.core import TaskGram
from truestep.multitask._kept import Kept
from truestep.multitask._rule import PerTask, Readings, only
from truestep.multitask.balancing._normalize import step_factor, trunk_factor
from truestep.multitask.balancing._report import Report


class Known(Kept):
    """Latest numbers of each task, and the sums of which static weights are the mean."""

    latest: Tensor  # [norms ratios losses, tasks]
    last: Tensor  # [norms ratios losses weights active, tasks] of the last update
    gram: Tensor
    shares: Tensor  # [sum of the shares of the weights, their number; tasks]
    updates: Tensor

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks = tasks
        t = len(tasks)
        self.register_buffer("latest", torch.full((3, t), torch.nan, dtype=torch.float64))
        self.register_buffer("last", torch.zeros(5, t, dtype=torch.float64))
        self.register_buffer("gram", torch.full((t, t), torch.nan, dtype=torch.float64))
        self.register_buffer("shares", torch.zeros(2, t, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def keep(self, seen: Readings, weights: PerTask, *, counts: bool) -> None:
        """Note one update; `counts` is False for the first window's provisional one."""
        active = seen.active.double()
        torch.stack([seen.norms, seen.ratios, seen.losses, weights, active], out=self.last)
        fresh = self.last[:3]
        self.latest.copy_(torch.where(fresh.isnan(), self.latest, fresh))
        if seen.gram is not None:
            self.gram.copy_(seen.gram)
        if counts:
            share = only(seen.active, weights / weights.sum())
            self.shares.add_(torch.stack([share, active]))
            self.updates.add_(1)

    def report(self, weights: PerTask) -> Report:
        """The latest numbers on the host."""
        told = torch.cat([weights[None], self.latest]).tolist()
        w, norms, ratios, losses = (dict(zip(self.tasks, row, strict=True)) for row in told)
        gram = None if bool(self.gram.isnan().all()) else TaskGram(self.tasks, self.gram.clone())
        norm, _, _, weight, active = self.last
        step, trunk = step_factor(weight, norm, active > 0), trunk_factor(weight, self.gram, active > 0)
        return Report(w, norms, ratios, losses, step.item(), trunk.item(), gram, int(self.updates))

    def static_weights(self) -> dict[str, float]:
        """Share of each task in the weights' sum, averaged over the updates that saw it; scaled to the sum T."""
        total, number = self.shares
        mean = torch.where(number > 0, total / number, 1.0 / len(self.tasks))
        return dict(zip(self.tasks, (len(self.tasks) * mean / mean.sum()).tolist(), strict=True))
