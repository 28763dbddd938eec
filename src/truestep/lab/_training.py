"""Plain SGD on a loss whose scale a rule sets: what the claims about the loss's scale have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.lab._digits import Digits, accuracy, digits, mlp

FACTOR: Final = 0.3  # the lr's, each time that `plateau` gives up
PATIENCE: Final = 2  # epochs without a better loss that it bears
BETTER: Final = 1e-4  # by this share, torch's default

Scale: TypeAlias = Callable[[Tensor], Tensor]  # a batch's losses [n] to the scalar whose gradient is taken
Schedule: TypeAlias = Callable[[Sequence[float], float], float]  # epochs' losses so far, progress 0..1, to lr / lr_0


class Problem(NamedTuple):
    """Inputs, targets, and the loss of each sample."""

    x: Float[Tensor, "samples inputs"]
    y: Tensor  # [samples] or [samples, outputs]
    loss: Callable[[Tensor, Tensor], Tensor]  # model's output, target to [n]


class Moment(NamedTuple):
    """One step as it was taken; the gradient is still in the model."""

    loss: Tensor  # mean of the batch, before the step
    lr: float
    epoch: int


def raw(losses: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The batch's mean loss, as it is."""
    return losses.mean()


def unit(losses: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The batch's mean loss divided by itself, as source 000 writes it: 1, with the gradient of log L.

    Example:
        >>> losses = torch.tensor([1.0, 3.0], requires_grad=True)
        >>> unit(losses).backward()
        >>> losses.grad
        tensor([0.2500, 0.2500])
    """
    loss = losses.mean()
    return loss / loss.detach()


def per_sample(losses: Float[Tensor, " n"], floor: float = 0.0) -> Float[Tensor, ""]:
    """The mean of losses each divided by itself, as source 000 writes it, if no `floor` is added below.

    Example:
        >>> losses = torch.tensor([1.0, 3.0], requires_grad=True)
        >>> per_sample(losses, floor=1.0).backward()
        >>> losses.grad
        tensor([0.2500, 0.1250])
    """
    return (losses / (losses.detach() + floor)).mean()


def reference(first: int) -> Scale:
    """A rule that divides by the mean of the `first` batches' losses, and by that for ever.

    Until they are seen it divides by the mean of those that are.
    """
    seen: list[Tensor] = []

    def scale(losses: Tensor) -> Tensor:
        loss = losses.mean()
        if len(seen) < first:
            seen.append(loss.detach())
        return loss / torch.stack(seen).mean()

    return scale


def constant(losses: Sequence[float], progress: float) -> float:  # noqa: ARG001 (a Schedule)
    """The lr stays."""
    return 1.0


def cosine(losses: Sequence[float], progress: float) -> float:  # noqa: ARG001 (a Schedule)
    """The lr falls to zero along half a cosine.

    Example:
        >>> cosine([], 0.0), cosine([], 0.5), cosine([], 1.0)
        (1.0, 0.5, 0.0)
    """
    return 0.5 * (1 + round(math.cos(math.pi * progress), 15))


def plateau(losses: Sequence[float], progress: float) -> float:  # noqa: ARG001 (a Schedule)
    """The lr falls to 0.3 of itself after each third epoch in a row without a better loss: ReduceLROnPlateau.

    Example:
        >>> plateau([1.0, 0.5, 0.5, 0.5, 0.5], 0.5)
        0.3
    """
    factor, best, bad = 1.0, math.inf, 0
    for loss in losses:
        better = loss < best * (1 - BETTER)
        best, bad = (loss, 0) if better else (best, bad + 1)
        if bad > PATIENCE:
            factor, bad = factor * FACTOR, 0
    return factor


def batches(samples: int, batch_size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " batch"]]:
    """One epoch's indices in random order; the last batch may be short.

    Example:
        >>> [len(index) for index in batches(10, 4, torch.Generator())]
        [4, 4, 2]
    """
    yield from torch.randperm(samples, generator=generator).split(batch_size)


def train(
    model: nn.Module,
    problem: Problem,
    scale: Scale,
    *,
    lr: float,
    schedule: Schedule = constant,
    batch_size: int = 64,
    epochs: int = 30,
    generator: torch.Generator,
) -> Iterator[Moment]:
    """Plain SGD, epoch by epoch; yields each step after it is taken, and ends early where the loss is no number.

    Args:
        model: Trained in place.
        problem: What it learns.
        scale: Makes the scalar whose gradient is taken.
        lr: The lr at the start.
        schedule: Its course.
        batch_size: Samples per step.
        epochs: Passes over the samples.
        generator: Draws the batches, on the CPU.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr)
    means: list[float] = []
    for epoch in range(epochs):
        losses: list[Tensor] = []
        order = list(batches(len(problem.x), batch_size, generator))
        for i, index in enumerate(order):
            now = lr * schedule(means, (epoch + i / len(order)) / epochs)
            each = problem.loss(model(problem.x[index]), problem.y[index])  # [n]
            optimizer.zero_grad()
            scale(each).backward()
            optimizer.param_groups[0]["lr"] = now
            optimizer.step()
            losses.append(each.detach().mean())
            yield Moment(losses[-1], now, epoch)
        means.append(torch.stack(losses).mean().item())
        if not math.isfinite(means[-1]):
            return


def flat_gradient(model: nn.Module) -> Float64[Tensor, " parameters"]:
    """The gradient of all parameters as one vector, in float64."""
    return torch.cat([_gradient(p).flatten().double() for p in model.parameters()])


def flat_weights(model: nn.Module) -> Float64[Tensor, " parameters"]:
    """All parameters as one vector, a copy, in float64."""
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


@torch.no_grad()
def mean_loss(model: nn.Module, problem: Problem) -> float:
    """The loss over all samples."""
    return problem.loss(model(problem.x), problem.y).double().mean().item()


def digits_problem(device: str, dtype: torch.dtype = torch.float32) -> tuple[Problem, Digits]:
    """Cross-entropy on the training digits, and the data with its test part.

    Example:
        >>> problem, data = digits_problem("cpu")
        >>> problem.loss(torch.zeros(2, 10), problem.y[:2])
        tensor([2.3026, 2.3026])
    """
    data = digits(device, dtype)
    return Problem(data.train_x, data.train_y, cross_entropy_each), data


def cross_entropy_each(output: Float[Tensor, "n classes"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Cross-entropy of each sample, in nats."""
    return cross_entropy(output, target, reduction="none")


def plain_mlp(
    widths: tuple[int, ...], generator: torch.Generator, device: str, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """The lab's MLP for the digits without a normaliser: a scale of the gradient is felt."""
    return mlp(widths, nn.Identity, generator, device=device, dtype=dtype)


def finite_accuracy(model: nn.Sequential, data: Digits) -> float:
    """Share of the test images got right; by guessing where a weight is no finite number.

    Example:
        >>> _, data = digits_problem("cpu")
        >>> model = plain_mlp((8,), torch.Generator(), "cpu")
        >>> model[0].weight.data[0, 0] = torch.nan
        >>> finite_accuracy(model, data)
        0.1
    """
    return accuracy(model, data) if flat_weights(model).isfinite().all() else 1 / len(data.test_y.unique())


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
