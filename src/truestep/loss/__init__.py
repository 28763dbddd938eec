"""Losses -> one scalar whose scale you know."""

from truestep.loss._scale_lr import AdamScale, scale_adam, scale_lr
from truestep.loss._tally import Tally
from truestep.loss._unit_loss import unit_loss
from truestep.loss.accumulation._accumulation import AccumulationCheck, check_accumulation
from truestep.loss.noise._noise_scale import NoiseEstimate, NoiseScale
from truestep.loss.skipping._guard import Guard, guard

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
