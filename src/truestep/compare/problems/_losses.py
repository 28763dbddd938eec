"""Mean losses of a batch (inputs, targets), as `loss_fn(model, batch)`."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy


def cross_entropy_loss(model: nn.Module, batch: Any) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over all targets; the classes are the outputs' last dimension.

    Example:
        >>> import torch
        >>> cross_entropy_loss(torch.nn.Identity(), (torch.zeros(2, 3, 4), torch.tensor([[0, 1, 2], [3, 0, 1]])))
        tensor(1.3863)
    """
    inputs, targets = batch
    logits: Tensor = model(inputs)
    return cross_entropy(logits.flatten(0, -2), targets.flatten())


def binary_loss(model: nn.Module, batch: Any) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of one logit a sample, targets 0 or 1.

    Example:
        >>> import torch
        >>> binary_loss(torch.nn.Identity(), (torch.zeros(2, 1), torch.tensor([[0.0], [1.0]])))
        tensor(0.6931)
    """
    inputs, targets = batch
    return binary_cross_entropy_with_logits(model(inputs), targets)


def squared_loss(model: nn.Module, batch: Any) -> Float[Tensor, ""]:
    """Mean squared error over samples and outputs, without the half.

    Example:
        >>> import torch
        >>> squared_loss(torch.nn.Identity(), (torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)))
        tensor(5.)
    """
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def summed_squared_loss(model: nn.Module, batch: Any) -> Float[Tensor, ""]:
    """Squared error summed over the outputs, its mean over samples.

    Example:
        >>> import torch
        >>> summed_squared_loss(torch.nn.Identity(), (torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)))
        tensor(10.)
    """
    inputs, targets = batch
    return (model(inputs) - targets).square().flatten(1).sum(1).mean()
