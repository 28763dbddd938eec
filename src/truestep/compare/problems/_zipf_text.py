r"""Text from a seed whose characters follow Zipf's law, and what can be known about it.

Character k has the share :math:`p_k \propto 1/k`. Each is, with probability q, the one `LAG` before it, and else drawn
from p. The shares are p at every place, and the least loss a model can have is the entropy rate

.. math:: \sum_a p_a H\big(q \delta_a + (1 - q) p\big)
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

LAG: Final = 2  # one character back would need no attention


def zipf(classes: int) -> Float64[Tensor, " classes"]:
    """Shares of the characters, the most frequent first.

    Example:
        >>> zipf(2)
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """
    shares = 1 / torch.arange(1, classes + 1, dtype=torch.float64)
    return shares / shares.sum()


def zipf_text(length: int, classes: int, repeat: float, seed: int) -> Int64[Tensor, " length"]:
    """Characters, numbered from 0 in the order of their shares.

    Args:
        length: How many.
        classes: Different characters.
        repeat: q, from 0 to 1.
        seed: Draws the text.

    Example:
        >>> zipf_text(6, 50, 1.0, seed=0).unique().numel() <= 2  # LAG characters, again and again
        True
    """
    generator = torch.Generator().manual_seed(seed)
    fresh = torch.multinomial(zipf(classes), length, replacement=True, generator=generator)
    drawn = torch.rand(length, generator=generator, dtype=torch.float64) >= repeat
    drawn[:LAG] = True
    places = torch.where(drawn, torch.arange(length), -1)
    padded = torch.nn.functional.pad(places, (0, -length % LAG), value=-1).view(-1, LAG)
    return fresh[padded.cummax(0).values.flatten()[:length]]  # of each place, where its character was drawn


def entropy_rate(classes: int, repeat: float) -> float:
    """Least mean cross-entropy of the text, in nats a character; with `repeat` 0 that of the shares alone.

    Example:
        >>> round(entropy_rate(2, 0.0), 4), entropy_rate(2, 1.0)
        (0.6365, 0.0)
    """
    p = zipf(classes)
    given = repeat * torch.eye(classes, dtype=torch.float64) + (1 - repeat) * p  # [character LAG before, next]
    return float((p * torch.special.entr(given).sum(1)).sum())
