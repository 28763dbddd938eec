"""What a balancer did, as numbers to print."""

from __future__ import annotations

from dataclasses import dataclass

from truestep.core import TaskGram


@dataclass(frozen=True, slots=True)
class Report:
    """What the last update saw and set; of a task that it did not see, what was last known (nan: nothing).

    Args:
        weights: By task; those that the latest `total` carries.
        norms: Norm of the gradient of the unweighted loss at the features, or at the chosen weight.
        ratios: Training-rate ratio L(t)/L(0): the lower, the further the task has come.
        losses: Mean loss, unweighted.
        step_factor: Sum of weight times norm over sum of norms: by what balancing changed the trunk's gradient budget,
            the length of its plain SGD step where the tasks' gradients are parallel; 1 under "budget".
        trunk_factor: Norm of the trunk's whole gradient over that without balancing; nan without `gram`.
        gram: Inner products of the tasks' gradients, where they are measured.
        updates: Number of updates so far.
    """

    weights: dict[str, float]
    norms: dict[str, float]
    ratios: dict[str, float]
    losses: dict[str, float]
    step_factor: float
    trunk_factor: float
    gram: TaskGram | None
    updates: int
