"""One view of the shared features for each task: what a head sends back arrives at its own view, unmixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


class Split:
    """Views of the features `z`, a tensor or any tree of them; memory of the same numbers, each with its own node.

    Args:
        z: What all heads read.
        tasks: Names of the views.
        apart: Whether each view gets its own node; else all are `z`, which costs nothing.
    """

    def __init__(self, z: Any, tasks: tuple[str, ...], *, apart: bool) -> None:
        self.views: dict[str, Any] = dict.fromkeys(tasks, z)
        self.inputs: dict[str, list[Tensor]] = {}  # none where the views are not apart
        self._z = z
        self._features: list[Tensor] | None = None
        self.in_half = False  # whether the heads may compute in float16
        if apart:
            self._part(tasks)

    def _part(self, tasks: tuple[str, ...]) -> None:
        parts, tree = tree_flatten(self._z)
        tracked = [isinstance(x, Tensor) and x.requires_grad for x in parts]
        for task in tasks:
            own = [x.view_as(x) if ok else x for x, ok in zip(parts, tracked, strict=True)]
            self.inputs[task] = [x for x, ok in zip(own, tracked, strict=True) if ok]
            self.views[task] = tree_unflatten(own, tree)
        self.in_half = in_half(self.features)
        self._versions = [x._version for x in self.features]

    @property
    def features(self) -> list[Tensor]:
        """The tensors of `z` that are trained; looked for when needed, since held steps should cost nothing."""
        if self._features is None:
            self._features = [x for x in tree_flatten(self._z)[0] if isinstance(x, Tensor) and x.requires_grad]
        return self._features

    @property
    def device(self) -> torch.device | None:
        """Where the views lie; None if they are not apart, or nothing of them is trained."""
        return self.features[0].device if self.inputs and self.features else None

    def check(self) -> None:
        """See how the heads computed; raise a ValueError if they overwrote the features."""
        if not self.inputs:
            return
        self.in_half = self.in_half or in_half(self.features)
        if [x._version for x in self.features] != self._versions:
            msg = (
                "a head overwrote its view of the features (an in-place operation such as ReLU(inplace=True)), which"
                " changes them for all heads: make the head's first operation out-of-place"
            )
            raise ValueError(msg)


def in_half(places: Sequence[Tensor]) -> bool:
    """Whether these are float16, or autocast makes float16 of what is computed from them."""
    kinds = {x.device.type for x in places}
    casts = any(torch.is_autocast_enabled(k) and torch.get_autocast_dtype(k) == torch.float16 for k in kinds)
    return casts or any(x.dtype == torch.float16 for x in places)
