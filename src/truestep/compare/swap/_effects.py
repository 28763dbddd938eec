"""What the swap of an optimizer does to the loss, split into length and direction of the steps."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SwapEffects:
    """Signed effects on the log loss, in nats, one for each seed; below 0 the loss falls.

    Args:
        total: From a's direction and length to b's; always `length` + `direction`.
        length: Of taking b's lengths, the mean over both directions.
        direction: Of taking b's directions, the mean over both lengths.
        interaction: What both together do beyond what each does alone.
    """

    total: Float64[Tensor, "*seeds"]
    length: Float64[Tensor, "*seeds"]
    direction: Float64[Tensor, "*seeds"]
    interaction: Float64[Tensor, "*seeds"]


def swap_effects(y: Float64[Tensor, "2 2 *seeds"]) -> SwapEffects:
    r"""Effects of two factors at two levels, after Shapley: length and direction add up to the total exactly.

    .. math:: \text{length} = \tfrac12\big[(y_{ab}-y_{aa}) + (y_{bb}-y_{ba})\big], \quad
        \text{direction} = \tfrac12\big[(y_{ba}-y_{aa}) + (y_{bb}-y_{ab})\big], \quad
        \text{interaction} = y_{bb}-y_{ba}-y_{ab}+y_{aa}

    Args:
        y: Mean log loss of the arms: first whose direction (a, b), then whose length (a, b).

    Example:
        >>> import torch
        >>> y = torch.tensor([[0.0, -3.0], [-1.0, -6.0]], dtype=torch.float64)
        >>> effects = swap_effects(y)
        >>> [x.item() for x in (effects.total, effects.length, effects.direction, effects.interaction)]
        [-6.0, -4.0, -2.0, -2.0]
    """
    (aa, ab), (ba, bb) = y
    length = ((ab - aa) + (bb - ba)) / 2
    direction = ((ba - aa) + (bb - ab)) / 2
    return SwapEffects(bb - aa, length, direction, bb - ba - ab + aa)
