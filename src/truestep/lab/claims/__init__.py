"""The claims, one a file; `CLAIMS` lists them all."""

from typing import Final

from truestep.lab._claim import Claim
from truestep.lab.claims import growing_norm, inverse_sqrt_decay, orthogonal_gradient

CLAIMS: Final[tuple[Claim, ...]] = (orthogonal_gradient.CLAIM, growing_norm.CLAIM, inverse_sqrt_decay.CLAIM)
