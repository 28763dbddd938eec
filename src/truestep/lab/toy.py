r"""GradNorm's toy: regressions that differ in nothing but their scale and share a trunk.

Task i is to learn :math:`f_i(x) = \sigma_i \tanh((B + \epsilon_i) x)` from 250 inputs to 100 outputs. The elements of
B, common to all tasks, are drawn from N(0, 10), those of :math:`\epsilon_i` from N(0, 3.5), standard deviations; all
are then divided by :math:`10 \sqrt{250}`, so that Bx ~ N(0, 1) for x ~ N(0, 1): without that the tanh is a sign, and
nothing is learnt in some hundred steps. The net is a trunk of four layers of 100 ReLU units and one linear head a
task. Each step has a fresh batch, so that training loss and test loss are the same thing.

A task's progress is its test loss over that at the start, L(t)/L(0): 1 is nothing learnt, 0 is all. The mean over the
tasks is what methods are compared by.

References:
    Chen et al., GradNorm, ICML 2018, https://arxiv.org/abs/1711.02257, section 4
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Final, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from truestep.multitask import Balancer

INPUTS: Final = 250
OUTPUTS: Final = 100
WIDTH: Final = 100
LAYERS: Final = 4
COMMON: Final = 10.0  # standard deviation of B's elements
OWN: Final = 3.5  # of each task's epsilon
BATCH: Final = 100
TEST: Final = 1000  # samples that progress is measured on
LOOKS: Final = 20  # at the test loss, during a training
LARGEST: Final = 100.0  # sigma; the smallest is 1


class Toy(NamedTuple):
    """The tasks: their names, their scales, and their matrices."""

    tasks: tuple[str, ...]
    sigmas: Float[Tensor, " tasks"]
    maps: Float[Tensor, "tasks outputs inputs"]


@dataclass(frozen=True, slots=True)
class Course:
    """What one training gave: at each step looked at, one number a task.

    Args:
        steps: The steps taken when it was looked.
        start: Each task's test loss before the first step.
        static: Each task's mean weight over the run, their sum the number of tasks.
        progress: Test loss over that at the start.
        weights: The balancer's weights of the step before.
        norms: The gradient norms that it read; nan where it read none.
        ratios: The training losses' ratios that it read.
    """

    steps: list[int]
    start: dict[str, float]
    static: dict[str, float]
    progress: dict[str, list[float]]
    weights: dict[str, list[float]]
    norms: dict[str, list[float]]
    ratios: dict[str, list[float]]

    @property
    def last(self) -> list[float]:
        """Each task's progress at the end."""
        return [curve[-1] for curve in self.progress.values()]

    @property
    def mean(self) -> float:
        """Mean over the tasks of L(t)/L(0) at the end; infinite where a loss is no number."""
        mean = fmean(self.last)
        return mean if math.isfinite(mean) else math.inf

    @property
    def spread(self) -> float:
        """Standard deviation over the tasks of log L(t)/L(0) at the end: 0 if all train at one rate."""
        return torch.tensor(self.last, dtype=torch.float64).log().std(correction=0).item()


class Net(nn.Module):
    """The trunk, and one linear head a task."""

    def __init__(self, tasks: Sequence[str], generator: torch.Generator) -> None:
        super().__init__()
        widths = (INPUTS, *(WIDTH,) * LAYERS)
        layers = [(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(widths)]
        self.trunk = nn.Sequential(*(module for pair in layers for module in pair))
        self.heads = nn.ModuleDict({task: nn.Linear(WIDTH, OUTPUTS) for task in tasks})
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)  # as torch does, but from our generator
                for parameter in (module.weight, module.bias):
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)

    @property
    def last_layer(self) -> Tensor:
        """GradNorm's W: the weight of the trunk's last layer."""
        return list(self.trunk.parameters())[-2]


Build: TypeAlias = Callable[[Toy, Net], Balancer]  # a new balancer for a new training


def scales(tasks: int) -> list[float]:
    """Sigma of each task, from 1 to 100 in equal factors.

    Example:
        >>> scales(2), scales(3)
        ([1.0, 100.0], [1.0, 10.0, 100.0])
    """
    return [round(LARGEST ** (i / (tasks - 1)), 12) for i in range(tasks)]


def make_toy(sigmas: Iterable[float], seed: int) -> Toy:
    """Draw the matrices of tasks `f0`, `f1`, ... with these scales.

    Example:
        >>> toy = make_toy([1.0, 100.0], seed=0)
        >>> toy.tasks, toy.maps.shape
        (('f0', 'f1'), torch.Size([2, 100, 250]))
    """
    generator = torch.Generator().manual_seed(2 * seed)
    scale = torch.tensor(list(sigmas))
    common = COMMON * torch.randn(OUTPUTS, INPUTS, generator=generator)
    own = OWN * torch.randn(len(scale), OUTPUTS, INPUTS, generator=generator)
    tasks = tuple(f"f{i}" for i in range(len(scale)))
    return Toy(tasks, scale, (common + own) / (COMMON * math.sqrt(INPUTS)))


def batch(toy: Toy, size: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Fresh inputs [size, 250], and each task's targets [size, 100].

    Example:
        >>> toy = make_toy([1.0, 100.0], seed=0)
        >>> x, y = batch(toy, 1000, torch.Generator().manual_seed(0))
        >>> torch.allclose(y["f1"], 100 * (x @ toy.maps[1].T).tanh(), rtol=1e-4, atol=1e-3)
        True
    """
    x = torch.randn(size, INPUTS, generator=generator)
    pre = (x @ toy.maps.flatten(0, 1).T).view(size, len(toy.tasks), -1)  # [size, tasks, outputs]
    y = toy.sigmas[:, None] * pre.tanh()
    return x, dict(zip(toy.tasks, y.unbind(1), strict=True))


@torch.no_grad()
def losses_on(net: Net, x: Tensor, targets: dict[str, Tensor]) -> dict[str, float]:
    """Mean squared error of each task."""
    z = net.trunk(x)
    return {task: mse_loss(net.heads[task](z), y).item() for task, y in targets.items()}


def train(toy: Toy, build: Build, *, lr: float, steps: int, seed: int, kpis: bool = False) -> Course:
    """Adam on the balanced loss.

    Args:
        toy: The tasks.
        build: Makes the balancer.
        lr: Adam's, constant.
        steps: How many.
        seed: Of the net's weights and of the batches.
        kpis: Tell the balancer each task's KPI at each step: 1 - L(t)/L(0) on the batch, 0 where that is negative.
    """
    generator = torch.Generator().manual_seed(2 * seed + 1)  # not the numbers that `make_toy` made the matrices of
    net = Net(toy.tasks, generator)
    held_out = batch(toy, TEST, generator)
    start = losses_on(net, *held_out)
    balancer = build(toy, net)
    optimizer = torch.optim.Adam(net.parameters(), lr)
    course = Course([], start, {}, *({task: [] for task in toy.tasks} for _ in range(4)))
    for step in range(1, steps + 1):
        x, targets = batch(toy, BATCH, generator)
        views = balancer.split(net.trunk(x))
        losses = {task: mse_loss(net.heads[task](views[task]), y) for task, y in targets.items()}
        if kpis:
            balancer.kpi({task: max(0.0, 1 - loss.item() / start[task]) for task, loss in losses.items()})
        optimizer.zero_grad()
        balancer.total(losses).backward()
        optimizer.step()
        if step * LOOKS // steps > (step - 1) * LOOKS // steps:
            _look(course, step, losses_on(net, *held_out), balancer)
    course.static.update(balancer.static_weights())
    return course


def _look(course: Course, step: int, now: dict[str, float], balancer: Balancer) -> None:
    """Write down where the training stands."""
    report = balancer.report
    course.steps.append(step)
    for task, loss in now.items():
        course.progress[task].append(loss / course.start[task])
        course.weights[task].append(report.weights[task])
        course.norms[task].append(report.norms[task])
        course.ratios[task].append(report.ratios[task])
