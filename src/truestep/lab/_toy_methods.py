"""Ways to weigh the tasks of GradNorm's toy: each a function of the toy and the net that makes a new balancer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from truestep.lab.toy import Build, Course, Net, Toy, train
from truestep.multitask import (
    Balancer,
    Constant,
    DynamicTaskPriority,
    DynamicWeightAverage,
    GradNorm,
    UncertaintyWeighting,
    UnitNorm,
)
from truestep.multitask._gradnorm import Solve

ALPHA: Final = 0.12  # the paper's for its toy
EPOCH: Final = 50  # steps: data are fresh, and "an epoch" is what dynamic weight average compares


def equal(toy: Toy, net: Net) -> Balancer:  # noqa: ARG001 (a Build)
    """The plain sum of the losses."""
    return Balancer(Constant(), toy.tasks, normalize="none")


def oracle(toy: Toy, net: Net) -> Balancer:  # noqa: ARG001 (a Build)
    """Fixed weights that take the tasks' scales out: 1 / sigma²."""
    weights = {task: sigma**-2 for task, sigma in zip(toy.tasks, toy.sigmas.tolist(), strict=True)}
    return Balancer(Constant(weights), toy.tasks, normalize="none")


def fixed(weights: Mapping[str, float]) -> Build:
    """These weights, with the number of tasks as sum."""
    return lambda toy, _: Balancer(Constant(weights), toy.tasks, normalize="sum")


def unit(toy: Toy, net: Net) -> Balancer:  # noqa: ARG001 (a Build)
    """Each loss divided by itself."""
    return Balancer(UnitNorm(), toy.tasks, normalize="none")


def gradnorm(alpha: float = ALPHA, solve: Solve = "direct", *, at_weight: bool = True) -> Build:
    """GradNorm, its norms taken at the last layer's weight, as in the paper, or at the layer's output."""
    return lambda toy, net: Balancer(
        GradNorm(alpha, solve), toy.tasks, normalize="sum", layer=net.last_layer if at_weight else None
    )


def uncertainty(lr: float) -> Build:
    """Uncertainty weighting with this lr of its log variances."""
    return lambda toy, _: Balancer(UncertaintyWeighting(lr=lr), toy.tasks, normalize="none")


def dwa(toy: Toy, net: Net) -> Balancer:  # noqa: ARG001 (a Build)
    """Dynamic weight average."""
    return Balancer(DynamicWeightAverage(period=EPOCH), toy.tasks, normalize="none")


def dtp(gamma: float = 1.0, *, smoothing: float = 0.9, unit: Literal["none", "loss", "norm"] = "none") -> Build:
    """Dynamic task prioritization; train it with `kpis=True`."""
    return lambda toy, _: Balancer(
        DynamicTaskPriority(gamma, smoothing=smoothing, unit=unit), toy.tasks, normalize="none"
    )


def best(toy: Toy, build: Build, *, lrs: Sequence[float], steps: int, seed: int) -> Course:
    """The training at that lr of several whose mean progress is best at the end."""
    return min((train(toy, build, lr=lr, steps=steps, seed=seed) for lr in lrs), key=lambda course: course.mean)
