"""LightningModules around the small classifier, and real runs that keep every step's gradient."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as lightning
import torch
from tests.integrations.batches import Batch, cross_entropy, flat_gradient, linear
from torch import Tensor
from torch.utils.data import DataLoader

from truestep.integrations.lightning import QUIET, _silence
from truestep.loss import Tally


class Classifier(lightning.LightningModule):
    """Returns the mean over a micro-batch's kept targets; None for the batch number `skip`."""

    def __init__(self, dtype: torch.dtype = torch.float64, skip: int | None = None) -> None:
        super().__init__()
        self.net = linear().to(dtype)
        self.skip = skip
        self.gradients: list[Tensor] = []  # before clipping
        self.clipped: list[Tensor] = []  # after

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.net.weight.dtype))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        losses, kept = cross_entropy(self, batch)
        return None if batch_idx == self.skip else losses.sum() / kept.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def configure_gradient_clipping(self, optimizer: Any, **clip: Any) -> None:
        self.gradients.append(flat_gradient(self))
        self.clip_gradients(optimizer, **clip)
        self.clipped.append(flat_gradient(self))


class TallyClassifier(Classifier):
    """Returns the tally's total."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses, kept = cross_entropy(self, batch)
        return self.tally.total(losses, mask=kept)


def fit(module: Classifier, batches: list[Batch], **arguments: Any) -> list[Tensor]:
    """Train on the batches in order; the gradient of every step, before clipping."""
    with warnings.catch_warnings(), _silence():
        lightning.Trainer(**(QUIET | {"accelerator": "cpu"} | arguments)).fit(
            module, DataLoader(batches, batch_size=None)
        )
    return module.gradients
