"""Small nets of a trunk and one head a task, whose losses have very different units, and what is true of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

from truestep.multitask import Balancer, Constant
from truestep.multitask._dynamic_task_priority import DynamicTaskPriority
from truestep.multitask._dynamic_weight_average import DynamicWeightAverage
from truestep.multitask._gradnorm import GradNorm
from truestep.multitask._rule import AbstractRule
from truestep.multitask._shares import Shares
from truestep.multitask._surgery import Surgery
from truestep.multitask._uncertainty_weighting import UncertaintyWeighting
from truestep.multitask._unit_norm import UnitNorm

Vectors = dict[str, Tensor]
UNITS = {"a": 1e-3, "b": 1.0, "c": 1e4}
WIDE = 6  # of the features


def by_norms(gram: Tensor) -> Tensor:
    """A weighting as TorchJD has them, of a Gramian."""
    return gram.diagonal().rsqrt()


RULES: dict[str, Callable[[], AbstractRule]] = {
    "Constant": Constant,
    "GradNorm, direct": lambda: GradNorm(1.5),
    "GradNorm, sign": lambda: GradNorm(0.5, "sign"),
    "GradNorm, gradient": lambda: GradNorm(1.0, "gradient"),
    "UncertaintyWeighting, gradient": UncertaintyWeighting,
    "UncertaintyWeighting, direct": lambda: UncertaintyWeighting(solve="direct"),
    "UnitNorm": UnitNorm,
    "DynamicTaskPriority": lambda: DynamicTaskPriority(unit="norm"),
    "DynamicWeightAverage": lambda: DynamicWeightAverage(period=2),
    "Shares": lambda: Shares({"a": 3.0, "b": 2.0, "c": 1.0}),
    "Surgery": lambda: Surgery(by_norms),
}


class Net(nn.Module):
    """A trunk of two layers and one linear head a task."""

    def __init__(self, tasks: str = "abc", dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, WIDE))
        self.heads = nn.ModuleDict({task: nn.Sequential(nn.Tanh(), nn.Linear(WIDE, 2)) for task in tasks})
        self.to(dtype)

    def losses(self, views: Mapping[str, Tensor], y: Vectors, reduction: str = "mean") -> Vectors:
        """Squared errors of the tasks that `y` has, in their units; one a sample under "none"."""
        rows = {task: UNITS[task] * (self.heads[task](views[task]) - y[task]).square().mean(1) for task in y}
        return rows if reduction == "none" else {task: loss.mean() for task, loss in rows.items()}

    def plain(self, x: Tensor, y: Vectors) -> Vectors:
        """The losses without a balancer."""
        return self.losses(dict.fromkeys(self.heads, self.trunk(x)), y)


def net(tasks: str = "abc", dtype: torch.dtype = torch.float64, seed: int = 1) -> Net:
    """The same net at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(tasks, dtype)


def batch(
    rows: int = 8, tasks: str = "abc", seed: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Vectors]:
    """Inputs, and targets by task."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64).to(dtype)
    return x, {task: torch.randn(rows, 2, generator=generator, dtype=torch.float64).to(dtype) for task in tasks}


def step(model: Net, balancer: Balancer, x: Tensor, y: Vectors) -> Tensor:
    """One forward, total and backward; returns the total."""
    model.zero_grad()
    total = balancer.total(model.losses(balancer.split(model.trunk(x)), y))
    total.backward()
    return total.detach()


def steps(number: int, model: Net, balancer: Balancer, x: Tensor, y: Vectors) -> None:
    """The same step several times."""
    for _ in range(number):
        step(model, balancer, x, y)


def descend(model: nn.Module, rate: float = 1e-5) -> None:
    """A small step of SGD on what `.grad` holds."""
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.sub_(rate * p.grad)


def true_gradients(model: Net, x: Tensor, y: Vectors) -> dict[str, Vectors]:
    """Of each task's plain loss, by parameter."""
    names = [name for name, _ in model.named_parameters()]
    out = {}
    for task, loss in model.plain(x, y).items():
        grads = torch.autograd.grad(loss, [*model.parameters()], retain_graph=True, materialize_grads=True)
        out[task] = dict(zip(names, grads, strict=True))
    return out


def true_norms(model: Net, x: Tensor, y: Vectors, at: Tensor | None = None) -> dict[str, float]:
    """Norm of each task's gradient at a weight, or at the features."""
    z = model.trunk(x)
    losses = model.losses(dict.fromkeys(model.heads, z), y)
    place = z if at is None else at
    return {t: torch.autograd.grad(loss, place, retain_graph=True)[0].norm().item() for t, loss in losses.items()}


def weighted(weights: Mapping[str, float], gradients: Mapping[str, Vectors]) -> Vectors:
    """The weighted sum of the tasks' gradients, by parameter."""
    tasks = [*gradients]
    return {name: sum(weights[t] * gradients[t][name] for t in tasks) for name in gradients[tasks[0]]}


def assert_same_gradient(model: nn.Module, expected: Vectors, tolerance: float = 1e-12) -> None:
    """Each parameter's `.grad` is what it should be, relative to its norm."""
    for name, p in model.named_parameters():
        found = torch.zeros_like(p) if p.grad is None else p.grad
        off = (found - expected[name]).norm() / expected[name].norm().clamp_min(1e-300)
        assert off <= tolerance, (name, off)


def assert_near(found: Mapping[str, float], expected: Mapping[str, float], tolerance: float = 1e-12) -> None:
    """The same tasks with the same numbers, relatively."""
    assert set(found) == set(expected)
    for task, value in expected.items():
        assert abs(found[task] - value) <= tolerance * abs(value), (task, found[task], value)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Number of outputs of each call of `torch.autograd.grad`."""
    calls: list[int] = []
    real = torch.autograd.grad

    def grad(outputs, *args, **kwargs):
        calls.append(1 if isinstance(outputs, Tensor) else len(outputs))
        return real(outputs, *args, **kwargs)

    with mock.patch("torch.autograd.grad", grad):
        yield calls


def assert_same_state(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, Tensor):
            assert torch.equal(torch.nan_to_num(found[key], nan=-7.0), torch.nan_to_num(value, nan=-7.0)), key
        else:
            assert str(found[key]) == str(value), key
