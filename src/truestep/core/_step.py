"""One optimizer's step: what was asked of each block, and what the block took."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from truestep.core._gram import Gram


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked of each block: the settings of its parameter group; nan where the rule has none.

    Args:
        lr: Learning rate.
        weight_decay: Weight decay coefficient, coupled or decoupled as the rule has it.
        momentum: Heavy-ball momentum (SGD, RMSprop, Muon).
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: The rule's denominator guard.
    """

    lr: Float64[Tensor, " blocks"]
    weight_decay: Float64[Tensor, " blocks"]
    momentum: Float64[Tensor, " blocks"]
    beta1: Float64[Tensor, " blocks"]
    beta2: Float64[Tensor, " blocks"]
    eps: Float64[Tensor, " blocks"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one optimizer.

    Args:
        optimizer: Name of the optimizer in its run, `"SGD"` if it is the only one of its class.
        index: Number of `step()` calls that reached this optimizer before this one.
        time: Unix time at the end of the step, in seconds.
        loss: Mean loss given for this step; nan where none was.
        samples: Number of samples given for this step; nan where none was.
        skipped: Whether a gradient scaler kept the optimizer from moving (`found_inf`).
        names: Blocks `"fc.weight"`, or units `"fc.weight[3]"`.
        asked: What the settings said, per block.
        took: The Gram of weight, gradient and displacement, per block, float64 on the CPU.
    """

    optimizer: str
    index: int
    time: float
    loss: float
    samples: float
    skipped: bool
    names: tuple[str, ...]
    asked: Asked
    took: Gram
