"""Trains one net on the same images in the same order at any batch size: only where the cuts fall differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.lab._digits import Digits, mlp

IMAGES: Final = 1024  # of the training part, so that every power of two up to here cuts an epoch without a rest
WIDTHS: Final = (64,)
WORST: Final = 10.0  # nats; what a larger loss, infinite or nan, counts as

Build: TypeAlias = Callable[[list[Tensor]], torch.optim.Optimizer]


def network(seed: int, device: str = "cpu") -> nn.Sequential:
    """A 64-64-10 ReLU MLP without normaliser and biases: no sample's loss depends on another's.

    Example:
        >>> [tuple(w.shape) for w in network(0).parameters()]
        [(64, 64), (10, 64)]
    """
    return mlp(WIDTHS, nn.Identity, torch.Generator().manual_seed(seed), device=device)


def batches(seed: int, batch_size: int) -> Iterator[Tensor]:
    """Indices of batch after batch, without end; each epoch in a new order, the same at every batch size.

    Example:
        >>> small, large = batches(0, 8), batches(0, 16)
        >>> torch.equal(torch.cat([next(small), next(small)]), next(large))
        True
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    while True:
        yield from torch.randperm(IMAGES, generator=generator).split(batch_size)


def steps(
    build: Build, model: nn.Module, data: Digits, seed: int, *, batch_size: int, reduction: str = "mean"
) -> Iterator[int]:
    """Train without end; yields the number of steps taken, after each.

    Args:
        build: Makes the optimizer from the parameters.
        model: What `network` built.
        data: The digits on the model's device.
        seed: Draws the order of the images.
        batch_size: Images a step, a power of two.
        reduction: Of the batch's losses, "mean" or "sum".
    """
    optimizer = build(list(model.parameters()))
    x, y = data.train_x[:IMAGES], data.train_y[:IMAGES]
    for count, index in enumerate(batches(seed, batch_size), start=1):
        optimizer.zero_grad()
        cross_entropy(model(x[index]), y[index], reduction=reduction).backward()
        optimizer.step()
        yield count


def loss_after(
    build: Build, data: Digits, seed: int, *, batch_size: int, epochs: tuple[int, ...], reduction: str = "mean"
) -> list[float]:
    """Mean loss of all training images after each of the given numbers of epochs, in nats, at most `WORST`."""
    model = network(seed, str(data.train_x.device))
    marks = [epoch * IMAGES // batch_size for epoch in epochs]
    losses: list[float] = []
    for count in steps(build, model, data, seed, batch_size=batch_size, reduction=reduction):
        if count in marks:
            losses.append(training_loss(model, data))
        if count >= marks[-1]:
            break
    return losses


@torch.no_grad()
def training_loss(model: nn.Module, data: Digits) -> float:
    """Mean loss of all training images in nats; `WORST` for one that is larger, infinite or nan."""
    loss = cross_entropy(model(data.train_x[:IMAGES]), data.train_y[:IMAGES]).item()
    return min(loss, WORST) if math.isfinite(loss) else WORST


def slope(values: dict[int, float]) -> float:
    """The exponent a of value ~ key^a: least squares on logarithms.

    Example:
        >>> round(slope({8: 2.0, 32: 4.0, 128: 8.0}), 6)
        0.5
    """
    x = torch.tensor([math.log(key) for key in values], dtype=torch.float64)
    y = torch.tensor([math.log(value) for value in values.values()], dtype=torch.float64)
    x = x - x.mean()
    return ((x * y).sum() / x.square().sum()).item()


def sharpness(model: nn.Module, data: Digits, iterations: int = 60) -> float:
    """Largest absolute eigenvalue of the Hessian of `training_loss`, by power iteration from a fixed start."""
    parameters = list(model.parameters())
    loss = cross_entropy(model(data.train_x[:IMAGES]), data.train_y[:IMAGES])
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    v = [torch.randn(p.shape, generator=generator).to(p) for p in parameters]
    size = 0.0
    for _ in range(iterations):
        norm = torch.stack([part.square().sum() for part in v]).sum().sqrt()
        v = [part / norm for part in v]
        inner = torch.stack([(g * part).sum() for g, part in zip(gradients, v, strict=True)]).sum()
        v = list(torch.autograd.grad(inner, parameters, retain_graph=True))
        size = torch.stack([part.square().sum() for part in v]).sum().sqrt().item()
    return size
