"""What the nets of the class project differ in: the activation, and what stands between two layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "relu": torch.relu,
    "logistic": torch.sigmoid,
    "logistic - 1/2": lambda z: torch.sigmoid(z) - 0.5,
    "tanh": torch.tanh,
    "tanh + 1": lambda z: torch.tanh(z) + 1,
}


@dataclass(frozen=True, slots=True)
class Variant:
    """What stands between two layers, and how the net steps.

    Args:
        norm: "centre" subtracts the batch's mean of each unit and adds a learned bias; "full" also divides by its
            deviation and multiplies by a learned gain; "" is none.
        direct: Whether the statistics are constants to the backward pass.
        after: Whether the norm stands behind the activation instead of before it.
        shifted: Whether a number of its own is added to each unit behind its activation, N(0, 1), for good.
        moved: Whether each unit gets another mean and scale behind the norm, for good; "redrawn": anew at each step.
        standardizing: Whether the gradient is that of standardised inputs of each layer (FOOF).
    """

    norm: Literal["", "centre", "full"] = ""
    direct: bool = False
    after: bool = False
    shifted: bool = False
    moved: Literal["", "fixed", "redrawn"] = ""
    standardizing: bool = False


VARIANTS: Final = {
    "none": Variant(),
    "none + ICS": Variant(shifted=True),
    "standardizing": Variant(standardizing=True),
    "BC": Variant("centre"),
    "BC direct": Variant("centre", direct=True),
    "BN": Variant("full"),
    "BN direct": Variant("full", direct=True),
    "BN + ICS": Variant("full", shifted=True),
    "BN + moved": Variant("full", moved="fixed"),
    "BN + noise": Variant("full", moved="redrawn"),
    "BN after": Variant("full", after=True),
}
