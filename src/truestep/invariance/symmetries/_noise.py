"""Random weights near a model's own, for each row of S."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from truestep.core import squared_norm

STRETCH, SHIFT = 0.5, 0.3  # elementwise, in units of the weight and of its rms: a constant positive tensor stays so
JITTER = 0.5  # of the logarithm of a tensor's scale
SMALL = 0.3  # rms below which a vector is brought up to it
FAN = 0.5  # the same for a matrix, over sqrt(fan in): about torch's own initialisation
MOST = 3.0  # how many times that a tensor may have: larger ones saturate softmax and loss, and others' gradients vanish
EXTRA = 1 << 14  # how many places there are in the pool to start at


class Noise:
    """Random weights near given ones. Each tensor and row reads a pool at a place of its own, which costs no draws.

    Args:
        like: The given weights.
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        most = max((w.numel() for w in like), default=0) + EXTRA
        uniform = torch.rand(most, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
        kinds = {(w.device, w.dtype) for w in like}
        self._shift = {kind: uniform.to(*kind) for kind in kinds}
        self._stretch = {kind: x.flip(0).mul_(STRETCH).add_(1) for kind, x in self._shift.items()}
        self._rms = {id(w): float(squared_norm([w]) / max(w.numel(), 1)) ** 0.5 for w in like}

    def fill(self, p: Tensor, w: Tensor, factor: float, generator: torch.Generator) -> None:
        """Set `p` to random weights near `w` times `factor`; signs stay where a tensor has one sign.

        A tensor of zeros is filled, a small or large one brought to an ordinary size: there no gradient drowns in
        rounding, no softmax is saturated and no norm layer's eps rules. What the weights' own size does to a symmetry
        is measured apart.
        """
        kind, rms = (w.device, w.dtype), self._rms[id(w)]
        starts = torch.randint(EXTRA, (2,), generator=generator).tolist()
        shift, stretch = (
            pool[kind].narrow(0, start, w.numel()).view(w.shape)
            for pool, start in zip((self._shift, self._stretch), starts, strict=True)
        )
        scale = factor * float(torch.exp(JITTER * (2 * torch.rand((), generator=generator) - 1)))
        least = SMALL if w.dim() < 2 else FAN * max(w[0].numel(), 1) ** -0.5
        if rms == 0.0:
            torch.mul(shift, scale * least * 3**0.5, out=p)
        else:
            scale *= min(max(least, rms), MOST * least) / rms
            torch.mul(shift, SHIFT * rms * scale, out=p).addcmul_(w, stretch, value=scale)
