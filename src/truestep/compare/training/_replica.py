"""What one run of many has of its own, and what may set the length of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from truestep.compare._factory import OptimizerFactory
from truestep.compare.step_matched._blocks import Scope
from truestep.compare.step_matched._factor import Norm


@dataclass(frozen=True, slots=True)
class Replica:
    """One run: its weights, its order of the data, its speed.

    Args:
        seed: Of the initial weights.
        order: Seed of the batches. Runs of one order see the same batches.
        multiplier: Factor on the lr of every group; on the length of each step, where steps are matched.

    Raises:
        ValueError: If `multiplier` is not positive and finite.

    Example:
        >>> Replica(seed=0, order=1000)
        Replica(seed=0, order=1000, multiplier=1.0)
    """

    seed: int
    order: int
    multiplier: int | float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.multiplier < math.inf:
            raise ValueError(f"`multiplier` must be positive and finite, found {self.multiplier}")


@dataclass(frozen=True, slots=True)
class Matched:
    r"""Steps of length `length` x multiplier x schedule; lr has no say in it.

    Args:
        length: Of a step of the replica with multiplier 1, where the schedule is at 1; in the norm's unit.
        norm: As `StepMatched` takes it; "function": of the outputs on the problem's probe.
        scope: What has this length: all weights as one ("global"), each "group", "tensor" or "unit".

    Raises:
        ValueError: If `length` is negative or not finite.

    Example:
        >>> Matched(0.1).norm
        'l2'
    """

    length: int | float
    norm: Norm | Literal["function"] = "l2"
    scope: Scope = "global"

    def __post_init__(self) -> None:
        if not 0 <= self.length < math.inf:
            raise ValueError(f"`length` must be 0 or more and finite, found {self.length}")


@dataclass(frozen=True, slots=True)
class Grafted:
    """Steps as long as those of another optimizer, which sees the same gradients at the same weights.

    That optimizer keeps its own state; its lr has the replica's multiplier and the schedule, and the lr of the
    optimizer whose direction is taken has no say.

    Args:
        optimizer: Whose lengths are taken.
        norm: As `StepMatched` takes it; "function": of the outputs on the problem's probe.
        scope: What has this length.

    Example:
        >>> import torch
        >>> Grafted(torch.optim.Adam).scope
        'global'
    """

    optimizer: OptimizerFactory
    norm: Norm | Literal["function"] = "l2"
    scope: Scope = "global"


Control = Matched | Grafted
