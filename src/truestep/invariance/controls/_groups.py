"""Which parameter groups the named weights fill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def check_stepped(optimizer: Optimizer, params: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless `params` holds at least one tensor and `optimizer` steps each of them."""
    _check_named(params)
    if not params:
        msg = "`params` must hold at least one scale-invariant weight by its name, found none"
        raise ValueError(msg)
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    foreign = [name for name, p in params.items() if id(p) not in stepped]
    if foreign:
        msg = (
            f"`params` must be weights that `optimizer` steps, found {', '.join(map(repr, foreign))} besides; "
            "take them from `dict(model.named_parameters())` after fully_shard or DDP, and leave out what is frozen"
        )
        raise ValueError(msg)


def _check_named(params: Any) -> None:
    """Raise where users give what they have at hand: a list of weights, or labels by name."""
    if not isinstance(params, Mapping) or not all(isinstance(p, Tensor) for p in params.values()):  # pyright: ignore
        made = "`{n: p for n, p in model.named_parameters() if n in found.alone}`"
        msg = f"`params` must be tensors by their names, such as {made}, found a {type(params).__name__}"
        raise ValueError(msg)


def whole_groups(optimizer: Optimizer, params: Mapping[str, Tensor]) -> list[int]:
    """Numbers of the parameter groups that hold `params` and nothing else.

    Numbers, since `optimizer.load_state_dict` makes new groups in the place of the old.

    Raises:
        ValueError: If a group holds other tensors too: lr and weight decay belong to the group as a whole.

    Example:
        >>> import torch
        >>> weight, bias = torch.ones(2, 3), torch.ones(2)
        >>> optimizer = torch.optim.SGD([{"params": [bias]}, {"params": [weight]}])
        >>> whole_groups(optimizer, {"fc.weight": weight})
        [1]
    """
    check_stepped(optimizer, params)
    named = {id(p) for p in params.values()}
    found: list[int] = []
    for index, group in enumerate(optimizer.param_groups):
        others = [p for p in group["params"] if id(p) not in named]
        if len(others) == len(group["params"]):
            continue
        if others:
            msg = (
                f"`params` must fill its parameter groups: group {index} holds {len(others)} other tensors too, the "
                f"first of shape {tuple(others[0].shape)}; give the scale-invariant weights a group of their own"
            )
            raise ValueError(msg)
        found.append(index)
    return found
