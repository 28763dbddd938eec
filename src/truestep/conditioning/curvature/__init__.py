"""Second derivatives of the loss by double backward, and the largest eigenvalues of what they make."""

from truestep.conditioning.curvature._edge import edge
from truestep.conditioning.curvature._ggn_product import ggn_product
from truestep.conditioning.curvature._hessian_product import hessian_product
from truestep.conditioning.curvature._preconditioner import adam_preconditioner, preconditioner
from truestep.conditioning.curvature._record import Sharpness
from truestep.conditioning.curvature._sharpness import sharpness

__all__ = ["Sharpness", "adam_preconditioner", "edge", "ggn_product", "hessian_product", "preconditioner", "sharpness"]
