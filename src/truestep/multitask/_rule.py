"""What a rule is: a map from what was seen of the tasks to their weights."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from truestep.multitask._kept import Kept

Reads = Literal["losses", "norms", "gram"]
PerTask = Float64[Tensor, " tasks"]
_ZERO: Final = torch.zeros((), dtype=torch.float64)  # on every device; a number would be made a tensor each time


@dataclass(frozen=True, slots=True)
class Readings:
    """What one update sees of the tasks, over all micro-batches and ranks; vectors have one entry a task.

    Args:
        losses: Mean loss, unweighted; nan where `active` is False.
        ratios: The loss over its start, L(t)/L(0); nan where there is none.
        norms: Norm of the gradient of the unweighted loss; nan where none was measured.
        active: Tasks to weigh: present, finite, and with a gradient other than zero where one was measured. The
            weights of the others are kept, whatever the rule says of them.
        weights: The weights so far.
        gram: Inner products of the gradients, where the rule reads "gram".
        kpis: Key performance indicators that the user told since the last update; nan where none.
    """

    losses: PerTask
    ratios: PerTask
    norms: PerTask
    active: Bool[Tensor, " tasks"]
    weights: PerTask
    gram: Float64[Tensor, "tasks tasks"] | None = None
    kpis: PerTask | None = None


class AbstractRule(Kept, ABC):
    """Weights of tasks; a subclass has its state in float64 buffers, one entry a task, made in `start`.

    A rule belongs to one set of tasks. Buffers are written in place (`copy_`), never read on the host.
    """

    reads: Reads = "losses"  # what `weigh` needs of the gradients
    kpis: bool = False  # whether it reads what `balancer.kpi` tells
    positive: bool = True  # whether it divides by losses: then a negative one is refused

    def __init__(self) -> None:
        super().__init__()
        self.tasks: tuple[str, ...] = ()

    def start(self, tasks: tuple[str, ...]) -> None:
        """Take the tasks' names, once, and make the state.

        Raises:
            ValueError: The rule has tasks already: it keeps their state, so that each balancer needs one of its own.
        """
        if self.tasks:
            msg = f"this {type(self).__name__} weighs {', '.join(self.tasks)} already: build one for each balancer"
            raise ValueError(msg)
        self.tasks = tasks
        self._make(tasks)

    def _make(self, tasks: tuple[str, ...]) -> None:
        """Register the buffers; a rule without state has none."""

    @abstractmethod
    def weigh(self, seen: Readings) -> PerTask:
        """Weights up to a common factor, and one step of the rule's own state; entries not active are ignored."""

    def extra_repr(self) -> str:
        """The settings, as they were given; a watch writes them down."""
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, f"_{name}")]
        return ", ".join(f"{name}={getattr(self, f'_{name}')!r}" for name in names)

    def penalty(self) -> Float64[Tensor, ""]:
        """What the method adds to the losses under the latest weights, no gradient for the network; 0 for most."""
        return torch.zeros((), dtype=torch.float64)

    def forward(self, values: Float[Tensor, " tasks"]) -> Float[Tensor, ""]:
        """One scalar of the tasks' losses, as a scalarizer of TorchJD is called; each call is an update.

        Raises:
            ValueError: The rule reads gradients, which values do not show.
        """
        if self.reads != "losses" or self.kpis:
            what = "KPIs" if self.kpis else "the tasks' gradients"
            msg = f"{type(self).__name__} reads {what}: give it to a Balancer, and split the features"
            raise ValueError(msg)
        if not self.tasks:
            self.start(tuple(str(i) for i in range(len(values))))
            self.to(values.device)
        losses = values.detach().double()
        unknown = torch.full_like(losses, torch.nan)
        seen = Readings(losses, unknown, unknown, losses.isfinite(), torch.ones_like(losses))
        weights = self.weigh(seen)
        return (values * weights.to(values)).sum() + self.penalty().to(values)


@cache
def everyone(tasks: int) -> Bool[Tensor, " tasks"]:
    """All tasks, on the CPU; where a mask is this very tensor, the functions below have nothing to leave out.

    With few tasks an update costs what its calls cost. On a GPU nobody knows that all are active without waiting.
    """
    return torch.ones(tasks, dtype=torch.bool)


def is_everyone(active: Bool[Tensor, " tasks"]) -> bool:
    """Whether nothing is to be left out."""
    return active is everyone(active.shape[0])


def only(active: Bool[Tensor, " tasks"], x: PerTask) -> PerTask:
    """`x` where a task is active, 0 elsewhere."""
    return x if is_everyone(active) else torch.where(active, x, _ZERO)


def kept(active: Bool[Tensor, " tasks"], new: PerTask, old: PerTask) -> PerTask:
    """`new` where a task is active, `old` elsewhere."""
    return new if is_everyone(active) else torch.where(active, new, old)


def mean_over(active: Bool[Tensor, " tasks"], x: PerTask) -> Float64[Tensor, ""]:
    """Mean of `x` over the active tasks; nan for none."""
    return only(active, x).sum() / active.sum()
