"""Nets whose hidden weights have no scale: one watched step by step, or many side by side with an lr each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Final, TypeAlias

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.core import Gram
from truestep.invariance import angular_update
from truestep.lab._digits import CLASSES, PIXELS, Digits, mlp, unit_gram

WIDTHS: Final = (32, 32)
BATCH: Final = 32
LR: Final = 0.3
STEPS: Final = 3000
NO_EPS: Final = 1e-30  # torch refuses 0
TORCH_EPS: Final = 1e-5

Weights: TypeAlias = list[Tensor]  # of each layer, [copies, out, in]


def batch_norm_net(generator: torch.Generator, device: str) -> nn.Sequential:
    """A BN MLP for the digits in float64, its norm layers without eps and without parameters."""
    norm = partial(nn.BatchNorm1d, eps=NO_EPS, affine=False)
    return mlp(WIDTHS, norm, generator, device=device, dtype=torch.float64)


def all_weights(model: nn.Sequential) -> dict[str, Tensor]:
    """The weights of all linear layers by name, the head's last.

    Example:
        >>> list(all_weights(batch_norm_net(torch.Generator(), "cpu")))
        ['0.weight', '3.weight', '6.weight']
    """
    return {f"{i}.weight": m.weight for i, m in enumerate(model) if isinstance(m, nn.Linear)}


def watched(
    model: nn.Sequential,
    optimizer: torch.optim.Optimizer,
    data: Digits,
    generator: torch.Generator,
    steps: int,
    after: Callable[[], object] = lambda: None,
) -> dict[str, Gram]:
    """Train on random batches; the Gram of every unit of every layer at each step, [steps, units].

    Args:
        model: What `batch_norm_net` built; every layer gets a gradient, also one that is not stepped.
        optimizer: Steps some of its weights.
        data: The digits, in the model's number format and on its device.
        generator: Draws the batches, on the CPU.
        steps: How many.
        after: Called behind each step, as for a scheduler.
    """
    weights = all_weights(model)
    rows: dict[str, list[Tensor]] = {name: [] for name in weights}
    for _ in range(steps):
        index = torch.randint(len(data.train_y), (BATCH,), generator=generator)
        model.zero_grad()
        cross_entropy(model(data.train_x[index]), data.train_y[index]).backward()
        before = {name: w.detach().clone() for name, w in weights.items()}
        optimizer.step()
        for name, w in weights.items():
            rows[name].append(unit_gram(before[name], w).columns())  # [units, 6]
        after()
    return {name: Gram.from_columns(torch.stack(row)) for name, row in rows.items()}


def joined(grams: Sequence[Gram]) -> Gram:
    """The units of several layers one behind another: Grams [steps, units] to one."""
    return Gram.from_columns(torch.cat([gram.columns() for gram in grams], dim=-2))


def typical(values: Float64[Tensor, "*steps units"]) -> Float64[Tensor, "*steps"]:
    """Geometric mean over units.

    Example:
        >>> typical(torch.tensor([1.0, 4.0], dtype=torch.float64))
        tensor(2., dtype=torch.float64)
    """
    return values.log().mean(-1).exp()


def rms_angle(gram: Gram, window: slice) -> float:
    """Root mean square, over the window's steps and all units, of the angle of a step, in rad."""
    return angular_update(gram)[window].square().mean().sqrt().item()


def log_spaced(steps: int, points: int = 60) -> Int[Tensor, " points"]:
    """Indices of steps for a curve over a log axis, the first and the last among them.

    Example:
        >>> log_spaced(100, 3)
        tensor([ 0,  9, 99])
    """
    ends = torch.tensor(float(steps), dtype=torch.float64).log10()
    return (torch.logspace(0, ends.item(), points, dtype=torch.float64) - 1).round().long().unique()


def random_copies(
    count: int,
    generator: torch.Generator,
    device: str,
    *,
    widths: tuple[int, ...] = WIDTHS,
    dtype: torch.dtype = torch.float32,
) -> Weights:
    """An MLP's weights, normal with variance 1 / fan-in, `count` times the same."""
    sizes = (PIXELS, *widths, CLASSES)
    weights: Weights = []
    for inputs, outputs in pairwise(sizes):
        w = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5
        weights.append(w.to(device, dtype).expand(count, -1, -1).clone().requires_grad_())
    return weights


def standardized(s: Float[Tensor, "copies n units"], eps: float = TORCH_EPS) -> Float[Tensor, "copies n units"]:
    """Batch norm of each unit of each copy."""
    variance, mean = torch.var_mean(s, dim=1, keepdim=True, correction=0)
    return (s - mean) * (variance + eps).rsqrt()


def outputs(
    weights: Weights, x: Float[Tensor, "n inputs"], between: Callable[[Tensor], Tensor]
) -> Float[Tensor, "copies n classes"]:
    """What each copy answers; `between` stands behind each hidden layer."""
    a = x.expand(len(weights[0]), -1, -1)
    for w in weights[:-1]:
        a = between(torch.bmm(a, w.mT))
    return torch.bmm(a, weights[-1].mT)


def normalized_relu(s: Float[Tensor, "copies n units"]) -> Float[Tensor, "copies n units"]:
    """Batch norm with torch's eps, then ReLU."""
    return standardized(s).relu()


def mean_losses(answers: Float[Tensor, "copies n classes"], y: Int[Tensor, " n"]) -> Float[Tensor, " copies"]:
    """Cross-entropy of each copy, the mean over samples, in nats."""
    return cross_entropy(answers.mT, y.expand(len(answers), -1), reduction="none").mean(1)
