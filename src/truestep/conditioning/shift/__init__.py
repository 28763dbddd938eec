"""Covariate shift: how far the inputs of layers are from zero mean, and what it does to the curvature."""

from truestep.conditioning.shift._covariate_shift import covariate_shift
from truestep.conditioning.shift._direct import PathSums, slope
from truestep.conditioning.shift._ics_share import ShareSums, ics_share
from truestep.conditioning.shift._layer_shift import LayerShift, layer_shift
from truestep.conditioning.shift._shift_record import CovariateShift, DirectPath

__all__ = [
    "CovariateShift",
    "DirectPath",
    "LayerShift",
    "PathSums",
    "ShareSums",
    "covariate_shift",
    "ics_share",
    "layer_shift",
    "slope",
]
