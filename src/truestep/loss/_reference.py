"""The frozen reference of `scale="ref"`: the mean loss of the first windows, the loss's own unit."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.core import SumCount

WARM_UP: Final = 20  # windows whose mean loss becomes the reference


def refer(reference: SumCount | None, window: SumCount) -> SumCount:
    """Add a window to the reference, if it is one of the first and its loss is finite and not zero.

    The reference's `count` counts windows. Sums are added, so long windows weigh more.
    """
    zero = torch.zeros_like(window.loss)
    if reference is None:
        reference = SumCount(zero, zero, zero)
    usable = torch.isfinite(window.loss) & (window.loss != 0) & (window.weight > 0)
    wanted = usable & (reference.count < WARM_UP)
    seen = (window.loss, window.weight, torch.ones_like(zero))
    return reference + SumCount(*(torch.where(wanted, x, zero) for x in seen))


def loss_unit(reference: SumCount | None, window: SumCount) -> Float64[Tensor, ""]:
    """Size of the mean loss of the windows before, of `window` itself where there is none.

    Example:
        >>> half, four, one = torch.tensor([0.5, 4.0, 1.0], dtype=torch.float64)
        >>> loss_unit(refer(None, SumCount(-four, one, one)), SumCount(half, one, one))
        tensor(4., dtype=torch.float64)
    """
    own = refer(None, window).mean.abs()
    return own if reference is None else torch.where(reference.count > 0, reference.mean.abs(), own)
