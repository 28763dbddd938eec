"""Several losses -> one, without one shouting."""

from truestep.multitask._constant import Constant
from truestep.multitask._dynamic_task_priority import DynamicTaskPriority, priority
from truestep.multitask._dynamic_weight_average import DynamicWeightAverage
from truestep.multitask._gradnorm import GradNorm, gradnorm_gradient, gradnorm_weights
from truestep.multitask._rule import AbstractRule, Readings
from truestep.multitask._shares import Shares
from truestep.multitask._surgery import Surgery
from truestep.multitask._uncertainty_weighting import UncertaintyWeighting
from truestep.multitask._unit_norm import UnitNorm
from truestep.multitask.balancing._balancer import Balancer
from truestep.multitask.balancing._report import Report

__all__ = [
    "AbstractRule",
    "Balancer",
    "Constant",
    "DynamicTaskPriority",
    "DynamicWeightAverage",
    "GradNorm",
    "Readings",
    "Report",
    "Shares",
    "Surgery",
    "UncertaintyWeighting",
    "UnitNorm",
    "gradnorm_gradient",
    "gradnorm_weights",
    "priority",
]
