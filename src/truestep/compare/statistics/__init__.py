"""Intervals over seeds: Student's of paired differences, a calibrated bootstrap for all else, losses on a log scale."""

from truestep.compare.statistics._bootstrap import calibrated_interval, resamples
from truestep.compare.statistics._interval import LEVEL, Interval, paired_interval, student_bounds, t_quantile
from truestep.compare.statistics._losses import geometric_interval, log_losses

__all__ = [
    "LEVEL",
    "Interval",
    "calibrated_interval",
    "geometric_interval",
    "log_losses",
    "paired_interval",
    "resamples",
    "student_bounds",
    "t_quantile",
]
