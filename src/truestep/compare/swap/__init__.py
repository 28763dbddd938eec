"""What a step's length does, and what its direction does, when one optimizer takes another's place."""

from truestep.compare.swap._effects import SwapEffects, swap_effects
from truestep.compare.swap._ratio_interval import ratio_interval
from truestep.compare.swap._swap_test import SwapTest, swap_test

__all__ = ["SwapEffects", "SwapTest", "ratio_interval", "swap_effects", "swap_test"]
