"""Layers that centre activations by the batch's mean, and one that moves them off again."""

from truestep.conditioning.centering._batch_center import (
    AbstractBatchCenter,
    BatchCenter1d,
    BatchCenter2d,
    Statistics,
    batch_center,
)
from truestep.conditioning.centering._batch_mean import batch_mean
from truestep.conditioning.centering._noise import NoisyShift, noisy_shift, unit_noise

__all__ = [
    "AbstractBatchCenter",
    "BatchCenter1d",
    "BatchCenter2d",
    "NoisyShift",
    "Statistics",
    "batch_center",
    "batch_mean",
    "noisy_shift",
    "unit_noise",
]
