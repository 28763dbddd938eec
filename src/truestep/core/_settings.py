"""What a parameter group asks for, read from its settings."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import torch

from truestep.core._step import Asked

Group = dict[str, Any]


def group_settings(group: Group) -> tuple[float, float, float, float, float, float]:
    """The lr, weight_decay, momentum, beta1, beta2 and eps of one parameter group; nan where the rule has none."""
    beta1, beta2 = _pair(group.get("betas"))
    lr, weight_decay, momentum, eps = (_number(group.get(key)) for key in ("lr", "weight_decay", "momentum", "eps"))
    return lr, weight_decay, momentum, beta1, beta2, eps


def asked_of(groups: Sequence[Group], group_of_block: Sequence[int]) -> Asked:
    """The `Asked` of blocks that belong to the groups `group_of_block`."""
    table = torch.tensor([group_settings(group) for group in groups], dtype=torch.float64, device="cpu").view(-1, 6)
    rows = table[torch.tensor(group_of_block, dtype=torch.long, device="cpu")]
    return Asked(*rows.unbind(-1))


def _number(value: Any) -> float:
    """Numbers and one-element tensors as they are; nan for None and for what is no single number."""
    if isinstance(value, bool) or value is None:
        return nan
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return nan


def _pair(betas: Any) -> tuple[float, float]:
    if isinstance(betas, Sequence) and not isinstance(betas, str):
        values = [_number(beta) for beta in betas[:2]]  # type: ignore[index]
        return (*values, nan, nan)[0], (*values, nan, nan)[1]
    return nan, nan
