"""What a batch's labels count for: kept targets, rows, and whether a head shifts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Bool, Num
from torch import Tensor

Per = Literal["token", "item"]
IGNORED: Final = -100  # the label without a loss, in transformers and torch.nn.functional.cross_entropy


def known(per: Per) -> Per:
    """`per`, if it is one.

    Raises:
        ValueError: If it is not.
    """
    if per not in get_args(Per):
        msg = f"`per` must be 'token' or 'item'; found {per!r}"
        raise ValueError(msg)
    return per


def kept_targets(labels: Num[Tensor, "*lead"], shift: bool) -> Bool[Tensor, "*targets"]:
    """True where a label is a target: it is not -100 and, for a head that shifts, not the first of its row.

    Example:
        >>> kept_targets(torch.tensor([[5, 6, -100]]), shift=True)
        tensor([[ True, False]])
    """
    shifted = shift and labels.dim() > 1
    return (labels[..., 1:] if shifted else labels) != IGNORED


def num_targets(batch: Mapping[str, Any], per: Per, shift: bool) -> Num[Tensor, ""]:
    """Denominator of a batch's mean loss: its kept targets, or the rows that have any; rows where there are no labels.

    Labels that the collator has shifted itself (`shift_labels`) are counted as they are.

    Example:
        >>> batch = {"labels": torch.tensor([[5, 6, 7], [-100, 8, -100]])}
        >>> [int(num_targets(batch, per, shift)) for per in ("token", "item") for shift in (False, True)]
        [4, 3, 2, 2]
    """
    shifted = batch.get("shift_labels")
    labels = batch.get("labels") if shifted is None else shifted
    if not isinstance(labels, Tensor):
        return torch.tensor(num_rows(batch))
    kept = kept_targets(labels, shift and shifted is None)
    return kept.sum() if per == "token" else kept.reshape(len(kept), -1).any(1).sum()


def num_rows(batch: Mapping[str, Any]) -> int:
    """Length of the first tensor of a batch that has a dimension.

    Raises:
        ValueError: If there is none.
    """
    rows = next((len(x) for x in batch.values() if isinstance(x, Tensor) and x.dim()), None)
    if rows is None:
        msg = f"`batches` must hold mappings of tensors; found one with {', '.join(map(str, batch)) or 'nothing'}"
        raise ValueError(msg)
    return rows


def without_first(labels: Num[Tensor, "*lead"]) -> Num[Tensor, "*lead"]:
    """A copy of the labels in which the first of each row is no target."""
    labels = labels.clone()
    labels[..., 0] = IGNORED
    return labels
