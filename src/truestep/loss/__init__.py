"""Losses -> one scalar whose scale you know."""

from truestep.loss._accumulation import AccumulationCheck, check_accumulation
from truestep.loss._guard import Guard, guard
from truestep.loss._noise_scale import NoiseEstimate, NoiseScale
from truestep.loss._scale_lr import AdamScale, scale_adam, scale_lr
from truestep.loss._tally import Tally
from truestep.loss._unit_loss import unit_loss

__all__ = [
    "AccumulationCheck",
    "AdamScale",
    "Guard",
    "NoiseEstimate",
    "NoiseScale",
    "Tally",
    "check_accumulation",
    "guard",
    "scale_adam",
    "scale_lr",
    "unit_loss",
]
