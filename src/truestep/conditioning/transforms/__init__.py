"""Gradient transforms: another direction in the place of the gradient, for any torch optimizer."""

from truestep.conditioning.transforms._gradient_centering import GradientCentering
from truestep.conditioning.transforms._quasi_diagonal import QuasiDiagonal
from truestep.conditioning.transforms._standardizing import Standardizing

__all__ = ["GradientCentering", "QuasiDiagonal", "Standardizing"]
