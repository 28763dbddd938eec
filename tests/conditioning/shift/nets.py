"""Small networks, data and the comparison of two measurements, for the tests of covariate shift."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truestep.conditioning.shift import CovariateShift

NUMBERS = ("nu", "largest", "lower", "upper", "ics_share")
Batch = tuple[Tensor, Tensor]


def net() -> nn.Sequential:
    """An MLP whose activation works in place."""
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3)
    ).double()


def normalized_net() -> nn.Sequential:
    """One with a layer norm: nothing in it depends on how a batch is cut."""
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)).double()


def batches(sizes: tuple[int, ...]) -> list[Batch]:
    """Inputs with a mean and labels, some of them ignored; the same rows whatever the sizes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(sizes), 4, dtype=torch.float64, generator=generator) + torch.tensor([0.0, 1.0, 2.0, -1.0])
    y = torch.randint(3, (sum(sizes),), generator=generator)
    y[::4] = -100
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def loss_fn(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross entropy as (losses, weights)."""
    losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return losses, (batch[1] >= 0).double()


def mean_fn(model: nn.Module, batch: Batch) -> Tensor:
    """A scalar mean over all rows."""
    return (model(batch[0]) - 1).square().mean()


def assert_same_shift(found: CovariateShift, expected: CovariateShift, rtol: float = 1e-11) -> None:
    """Equal numbers of all layers."""
    assert list(found.layers) == list(expected.layers)
    assert list(found.normalizations) == list(expected.normalizations)
    for name, shift in found.layers.items():
        other: Any = expected.layers[name]
        assert (shift.n, shift.group) == (other.n, other.group), name
        torch.testing.assert_close(shift.mean, other.mean, rtol=rtol, atol=rtol)
        torch.testing.assert_close(shift.variance, other.variance, rtol=rtol, atol=rtol)
        for number in NUMBERS:
            assert getattr(shift, number) == pytest.approx(getattr(other, number), rel=rtol, nan_ok=True), (
                name,
                number,
            )
    for name, path in found.normalizations.items():
        assert path.ratio == pytest.approx(expected.normalizations[name].ratio, rel=rtol, nan_ok=True), name
