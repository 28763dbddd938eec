"""The geometry a step meets: covariate shift, centering, preconditioned gradients, and curvature one can trust."""

from truestep.conditioning.centering import BatchCenter1d, BatchCenter2d, NoisyShift, batch_center, batch_mean
from truestep.conditioning.curvature import (
    Sharpness,
    adam_preconditioner,
    edge,
    ggn_product,
    hessian_product,
    preconditioner,
    sharpness,
)
from truestep.conditioning.shift import (
    CovariateShift,
    DirectPath,
    LayerShift,
    covariate_shift,
    ics_share,
    layer_shift,
)
from truestep.conditioning.transforms import GradientCentering, QuasiDiagonal, Standardizing

__all__ = [
    "BatchCenter1d",
    "BatchCenter2d",
    "CovariateShift",
    "DirectPath",
    "GradientCentering",
    "LayerShift",
    "NoisyShift",
    "QuasiDiagonal",
    "Sharpness",
    "Standardizing",
    "adam_preconditioner",
    "batch_center",
    "batch_mean",
    "covariate_shift",
    "edge",
    "ggn_product",
    "hessian_product",
    "ics_share",
    "layer_shift",
    "preconditioner",
    "sharpness",
]
