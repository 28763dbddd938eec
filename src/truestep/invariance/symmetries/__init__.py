"""Which weights have no scale of their own: found from gradients alone, named in small whole exponents."""

from truestep.invariance.symmetries._find_symmetries import find_symmetries
from truestep.invariance.symmetries._symmetries import Symmetries

__all__ = ["Symmetries", "find_symmetries"]
