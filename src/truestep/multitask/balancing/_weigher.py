"""From the sums of a window to the tasks' weights: what balancing knows, apart from how a user's loop calls it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool
from torch import Tensor

from truestep.multitask._kept import Kept
from truestep.multitask._rule import AbstractRule, PerTask, Readings, Reads, everyone, only
from truestep.multitask.balancing._gauge import Gauge
from truestep.multitask.balancing._initial import InitialLosses
from truestep.multitask.balancing._known import Known
from truestep.multitask.balancing._normalize import Normalize, normalized
from truestep.multitask.balancing._refusal import Refusal
from truestep.multitask.balancing._task_sums import TaskSums


class Weigher(Kept):
    """The weights of the tasks, and everything that they follow from but the losses of this window.

    Args:
        rule: Has the tasks already.
        gauge: Turns losses into sums.
        initial: L(0).
        normalize: What of the step the weights keep.
        group: Ranks that share the batch.
    """

    weights: Tensor

    def __init__(
        self,
        rule: AbstractRule,
        gauge: Gauge,
        initial: InitialLosses,
        normalize: Normalize,
        group: dist.ProcessGroup | None,
    ) -> None:
        super().__init__()
        self.rule, self.gauge, self.initial = rule, gauge, initial
        self.normalize: Normalize = normalize
        self.group = group
        self.known = Known(rule.tasks)
        self.register_buffer("weights", torch.ones(len(rule.tasks), dtype=torch.float64))
        self.told: dict[str, list[float]] = {}  # KPIs since the last update; no buffer: DDP would send rank 0's to all
        self.refusal = Refusal(rule.tasks, type(rule).__name__)

    def shared(self) -> bool:
        """Whether other ranks share the batch."""
        return dist.is_available() and dist.is_initialized() and dist.get_world_size(self.group) > 1

    @torch.no_grad()
    def gathered(self, sums: TaskSums, *, alone: bool, provisional: bool = False) -> TaskSums:
        """Sums over all ranks, with the KPIs told; raises on all of them where a loss cannot be balanced."""
        if self.told:
            told = [self.told.get(task, []) for task in self.rule.tasks]
            rows = torch.tensor([[sum(x), len(x)] for x in told], dtype=torch.float64).to(sums.loss.device)
            sums = replace(sums, kpi=rows[:, 0], kpis=rows[:, 1])
        sums = sums.all_reduce(self.group)
        sums = self.gauge.settle(sums, self.group, alone=alone, keep=provisional)
        self.refuse(sums)
        if not provisional:
            self.told = {}
        return sums

    @torch.no_grad()
    def update(self, sums: TaskSums, *, provisional: bool = False) -> Bool[Tensor, " tasks"]:
        """Set the weights from the gathered sums of a window; a provisional update leaves no other trace.

        Returns the tasks that it weighed.
        """
        losses, norms = sums.losses, sums.norms
        active = self._active(losses, norms)
        start = self.initial.after(losses, active)
        ratios = losses * start[1] / start[0]
        seen = Readings(losses, ratios, norms, active, self.weights.clone(), sums.inner, sums.told)
        rule = copy.deepcopy(self.rule) if provisional else self.rule
        self.weights.copy_(normalized(rule.weigh(seen), seen, self.normalize))
        self.known.keep(seen, self.weights, counts=not provisional)
        if not provisional:
            self.initial.keep(*start)
        return active

    @torch.no_grad()
    def welcome(self, sums: TaskSums, fresh: Sequence[str]) -> Bool[Tensor, " tasks"]:
        """Set the weights of the tasks in `fresh` alone, from one micro-batch, and leave no other trace.

        In proportion to the others, which keep theirs.
        """
        before = self.weights.clone()
        weighed = self.update(self.gathered(sums, alone=True, provisional=True), provisional=True)
        mine = torch.tensor([task in fresh for task in self.rule.tasks], device=before.device)
        others = ~mine & (sums.count > 0)
        factor = only(others, before).sum() / only(others, self.weights).sum()
        known = (factor > 0) & (factor < torch.inf)  # not where the others are absent
        factor = torch.where(known, factor, 1.0) if self.normalize != "none" else torch.ones_like(factor)
        self.weights.copy_(torch.where(mine, self.weights * factor, before))
        return weighed & mine

    def refuse_at_once(self, losses: Mapping[str, Tensor]) -> None:
        """The same on a step that is not measured, of one process on the CPU, where looking costs no waiting."""
        for task, loss in losses.items():
            if loss.device.type != "cpu":
                return
            value = loss.item()
            if not math.isfinite(value) or (value < 0 and self.rule.positive):
                self.refusal.refuse(task, value)

    def _active(self, losses: PerTask, norms: PerTask) -> Bool[Tensor, " tasks"]:
        """Tasks to weigh: a loss that can be balanced, and a gradient other than zero where one was measured."""
        measured = self.gauge.reads != "losses"
        if self._all_good(losses) and (not measured or all(0 < g < math.inf for g in norms.tolist())):
            return everyone(len(losses))
        good = self._good(losses)
        return good & (norms > 0) & (norms < torch.inf) if measured else good

    def _all_good(self, losses: PerTask) -> bool:
        """Whether all tasks are there with losses that can be balanced, as far as the host knows without waiting."""
        if losses.device.type != "cpu":
            return False
        return all(math.isfinite(x) and (x >= 0 or not self.rule.positive) for x in losses.tolist())

    def refuse(self, sums: TaskSums) -> None:
        """Raise a ValueError that names a task whose loss cannot be balanced; on a GPU it may come later."""
        losses = sums.losses
        if self._all_good(losses):
            return
        self.refusal.check(losses, self._good(losses), sums.count)

    def _good(self, losses: PerTask) -> Bool[Tensor, " tasks"]:
        """Which losses can be balanced; False for the nan of an absent task."""
        good = losses.abs() < torch.inf
        return good & (losses >= 0) if self.rule.positive else good

    def get_extra_state(self) -> dict[str, Any]:
        """What is no tensor; part of `state_dict`."""
        return {"tasks": [*self.rule.tasks], "told": {task: [*values] for task, values in self.told.items()}}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken."""
        if state["tasks"] != [*self.rule.tasks]:
            msg = (
                f"the state is of a balancer of {', '.join(state['tasks'])}; this one has {', '.join(self.rule.tasks)}"
            )
            raise ValueError(msg)
        self.told = {task: [*values] for task, values in state["told"].items()}


def what_to_read(rule: AbstractRule, normalize: Normalize, *, gram: bool) -> Reads:
    """What must be measured."""
    if gram or rule.reads == "gram":
        return "gram"
    return "norms" if rule.reads == "norms" or normalize == "budget" else "losses"
