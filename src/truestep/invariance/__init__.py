"""Weights whose norm does not matter, and what the learning rate means for them."""

from truestep.invariance._distance import Distance, distance
from truestep.invariance._effective import by_group, direction_lr, per_layer, relative_lr
from truestep.invariance._equilibrium import Equilibrium, GroupEquilibrium, equilibrium
from truestep.invariance._formulas import angular_update, effective_lr, intrinsic_lr, relative_update
from truestep.invariance._growth import (
    gradient_size,
    growth_law,
    growth_time,
    sgd_squared_norm_after,
    squared_norm_after,
)
from truestep.invariance._rule import Rule, rules
from truestep.invariance._time_scales import TimeScales, time_scales
from truestep.invariance.controls._exponential_twin import ExponentialTwin
from truestep.invariance.controls._hold_angle import HoldAngle
from truestep.invariance.controls._hold_effective_lr import HoldEffectiveLR
from truestep.invariance.controls._rescale import rescale
from truestep.invariance.controls._unit_sphere import UnitSphere
from truestep.invariance.symmetries._find_symmetries import find_symmetries
from truestep.invariance.symmetries._symmetries import Symmetries

__all__ = [
    "Distance",
    "Equilibrium",
    "ExponentialTwin",
    "GroupEquilibrium",
    "HoldAngle",
    "HoldEffectiveLR",
    "Rule",
    "Symmetries",
    "TimeScales",
    "UnitSphere",
    "angular_update",
    "by_group",
    "direction_lr",
    "distance",
    "effective_lr",
    "equilibrium",
    "find_symmetries",
    "gradient_size",
    "growth_law",
    "growth_time",
    "intrinsic_lr",
    "per_layer",
    "relative_lr",
    "relative_update",
    "rescale",
    "rules",
    "sgd_squared_norm_after",
    "squared_norm_after",
    "time_scales",
]
