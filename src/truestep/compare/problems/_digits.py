"""Four problems on scikit-learn's handwritten digits: 1797 grey images of 8 x 8, ten classes, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from truestep.compare.problems._losses import cross_entropy_loss, squared_loss, summed_squared_loss
from truestep.compare.problems._problem import Problem
from truestep.compare.problems._seeds import seeded
from truestep.compare.problems._supervised import supervised
from truestep.core._extra import lab_extra

HELD_OUT: Final = 597 / 1797  # 1200 images are trained on: the lab's own split


def read_digits() -> tuple[Float[Tensor, "images 64"], Int[Tensor, " images"]]:
    """Grey values from 0 to 1, and labels.

    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> images, labels = read_digits()
        >>> images.shape, labels[:4]
        (torch.Size([1797, 64]), tensor([0, 1, 2, 3]))
    """
    with lab_extra("this problem"):
        from sklearn.datasets import load_digits
    images, labels = load_digits(return_X_y=True)
    return torch.as_tensor(images, dtype=torch.float32) / 16, torch.as_tensor(labels)


def digits_logistic(*, batch_size: int = 64, device: str = "cpu") -> Problem:
    """Logistic regression on the digits: convex. Loss: cross-entropy in nats, mean.

    Args:
        batch_size: Images a step.
        device: Where data and model live.

    Example:
        >>> problem = digits_logistic()
        >>> images, labels = next(problem.batches(0))
        >>> problem.build(0)(images).shape
        torch.Size([64, 10])
    """
    return _classifier("digits-logistic", build_linear, 0.15, batch_size, device)


def digits_mlp(*, standardize: bool = False, batch_size: int = 64, device: str = "cpu") -> Problem:
    """An MLP 64-32-10 with ReLU on the digits. Loss: cross-entropy in nats, mean.

    Args:
        standardize: Give every pixel mean 0 and variance 1, not grey values from 0 to 1: a small lr gets further.
        batch_size: Images a step.
        device: Where data and model live.
    """
    name = "digits-mlp, standardized" if standardize else "digits-mlp"
    return _classifier(name, build_mlp, 0.1, batch_size, device, standardize=standardize)


def digits_cnn(*, batch_size: int = 64, device: str = "cpu") -> Problem:
    """Two convolutions with batch norm on the digits; their weights' norm does not matter. See `digits_logistic`."""
    return _classifier("digits-cnn", build_cnn, 0.1, batch_size, device)


def digits_autoencoder(
    *, reduction: Literal["mean", "sum"] = "mean", batch_size: int = 64, device: str = "cpu"
) -> Problem:
    """An autoencoder 64-32-8-32-64 with tanh on the digits. Loss: squared error, mean over samples.

    Args:
        reduction: Mean or sum over the 64 pixels: the same problem with 64 times the gradient.
        batch_size: Images a step.
        device: Where data and model live.

    Raises:
        ValueError: If `reduction` is neither.

    Example:
        >>> mean, summed = digits_autoencoder(), digits_autoencoder(reduction="sum")
        >>> round(summed.probe_loss(summed.build(0)) / mean.probe_loss(mean.build(0)), 3)
        64.0
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f'`reduction` must be "mean" or "sum", found {reduction!r}')
    loss, factor = (squared_loss, 1) if reduction == "mean" else (summed_squared_loss, 64)
    return supervised(
        "digits-autoencoder",
        read_digits_twice,
        build_autoencoder,
        loss,
        target=0.03 * factor,
        max_steps=500,
        batch_size=batch_size,
        held_out=HELD_OUT,
        device=device,
    )


def read_digits_twice() -> tuple[Float[Tensor, "images 64"], Float[Tensor, "images 64"]]:
    """The images, which are their own targets."""
    images, _ = read_digits()
    return images, images


def build_linear(seed: int) -> nn.Module:
    """The linear model of `digits_logistic`, with torch's own initial weights, as all here."""
    with seeded(seed):
        return nn.Linear(64, 10)


def build_mlp(seed: int) -> nn.Module:
    """The MLP of `digits_mlp`."""
    with seeded(seed):
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def build_cnn(seed: int) -> nn.Module:
    """The CNN of `digits_cnn`."""
    with seeded(seed):
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(256, 10),
        )


def build_autoencoder(seed: int) -> nn.Module:
    """The autoencoder of `digits_autoencoder`."""
    with seeded(seed):
        encoder = (nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8))
        return nn.Sequential(*encoder, nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 64))


def _classifier(
    name: str,
    build: Callable[[int], nn.Module],
    target: float,
    batch_size: int,
    device: str,
    *,
    standardize: bool = False,
) -> Problem:
    return supervised(
        name,
        read_digits,
        build,
        cross_entropy_loss,
        target=target,
        max_steps=300,
        batch_size=batch_size,
        held_out=HELD_OUT,
        standardize=standardize,
        device=device,
    )
