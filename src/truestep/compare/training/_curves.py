"""What training many replicas gives: their losses, and where they went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Curves:
    """Losses of all replicas at the same steps.

    Args:
        steps: Steps done at each point; the start is not among them, the last is the end.
        losses: Mean loss on the problem's probe, the model in evaluation mode; inf from the first point on at which
            it was not finite.
        paths: The model's outputs on the probe, flattened, at most 8192 evenly spaced ones; of a model of at most 100
            weights the weights themselves. [replicas, points, numbers] in float32, if asked for.
        stacked: Whether all replicas were trained as one.
        why_not: Why they were trained one after another; empty if they were not.

    Example:
        >>> import torch
        >>> curves = Curves((1, 2), torch.tensor([[1.0, torch.inf]], dtype=torch.float64), None, True, "")
        >>> curves.as_dict()["losses"]
        [[1.0, 'inf']]
        >>> Curves.from_dict(curves.as_dict()).losses
        tensor([[1., inf]], dtype=torch.float64)
    """

    steps: tuple[int, ...]
    losses: Float64[Tensor, "replicas points"]
    paths: Tensor | None
    stacked: bool
    why_not: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, every number exact, inf and nan as words; paths are left out."""
        losses = [[x if math.isfinite(x) else str(x) for x in row] for row in self.losses.tolist()]
        return {"steps": [*self.steps], "losses": losses, "stacked": self.stacked, "why_not": self.why_not}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Curves:
        """The curves that `as_dict` wrote, without paths."""
        losses = torch.tensor([[float(x) for x in row] for row in values["losses"]], dtype=torch.float64)
        losses = losses.reshape(len(values["losses"]), len(values["steps"]))
        return cls(tuple(values["steps"]), losses, None, values["stacked"], values["why_not"])
