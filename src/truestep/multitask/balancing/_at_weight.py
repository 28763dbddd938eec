r"""Gradients of the tasks at a shared weight, from those at the features: only what lies between is passed again.

For a Linear layer with input :math:`a` and gradient :math:`\delta` at its output the gradient of the weight is
:math:`\delta^\top a`, and its squared norm :math:`\sum (\delta\delta^\top) \circ (a a^\top)`, which costs less where
the batch has fewer rows than the layer inputs, and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from truestep.core import is_distributed
from truestep.multitask.balancing._heads import gradients, nodes

Layer = nn.Module | Tensor | Iterable[Tensor]
FAR: Final = 64  # nodes of the graph to look at for the layer: it is meant to lie just below the features


def shared_weights(layer: Layer) -> list[Tensor]:
    """The tensors that `layer` names: a module's `weight`, or else all its parameters; a tensor, or several.

    Raises:
        ValueError: There is none, or one is sharded over ranks.
    """
    found: list[Tensor]
    if isinstance(layer, Tensor):
        found = [layer]
    elif isinstance(layer, nn.Module):
        weight = getattr(layer, "weight", None)
        found = [weight] if isinstance(weight, Tensor) else [*layer.parameters()]
    else:
        found = list(layer)
    if not found or any(is_distributed(w) for w in found):
        what = "is sharded over ranks" if found else "has no parameter"
        msg = f"`layer` {what}: give the last shared layer, its weight or several weights, or measure at the features"
        raise ValueError(msg)
    return found


def weight_gradients(
    outputs: Sequence[Tensor], seeds: Sequence[Tensor | None], weights: Sequence[Tensor]
) -> Float[Tensor, " elements"]:
    """Gradient of <outputs, seeds> at the weights as one vector, in float32 at least."""
    wide = torch.promote_types(weights[0].dtype, torch.float32)
    found = gradients(outputs, weights, seeds)
    flat = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
    return torch.cat([g.detach().reshape(-1).to(wide) for g in flat])


class LinearBelow:
    """The Linear layer of a weight, found in the graph of the features: its input, and the edge of its output."""

    def __init__(self, edge: GradientEdge, rows: Float[Tensor, "rows inputs"]) -> None:
        self._edge = edge
        self._products = _products(rows)

    @classmethod
    def find(cls, features: Sequence[Tensor], weight: Tensor) -> LinearBelow | None:
        """Where a weight that is `used` once is used by a matrix product with fewer rows than inputs; else None."""
        for node in nodes(features, FAR):
            rows = _input_beside(node, weight)
            if rows is not None:
                return None if rows.shape[0] > rows.shape[1] else cls(GradientEdge(node, 0), rows)
        return None

    def square(self, outputs: Sequence[Tensor], seeds: Sequence[Tensor | None]) -> Float64[Tensor, ""]:
        """Squared norm of the weight's gradient of <outputs, seeds>."""
        (delta,) = gradients(outputs, [self._edge], seeds)
        if delta is None:
            return torch.zeros((), dtype=torch.float64, device=self._products.device)
        return (_products(delta.reshape(len(self._products), -1)) * self._products).sum(dtype=torch.float64)


def _products(rows: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows rows"]:
    """Inner products of the rows, in float32 at least, also under autocast: they would overflow in float16."""
    wide = rows.detach().to(torch.promote_types(rows.dtype, torch.float32))
    with torch.autocast(rows.device.type, enabled=False):
        return wide @ wide.T


def used(outputs: Sequence[Tensor], weights: Sequence[Tensor]) -> int:
    """How often the weights, or their transposes or copies in another number format, enter what gave the outputs."""

    def leads(node: Any) -> bool:
        return any(_origin(node) is weight for weight in weights)

    others = [node for node in nodes(outputs) if not leads(node)]
    return sum(below is not None and leads(below) for node in others for below, _ in node.next_functions)


def casts(outputs: Sequence[Tensor]) -> bool:
    """Whether what gave the outputs changed its number format on the way, as autocast does."""
    return any(node.name() == "ToCopyBackward0" for node in nodes(outputs))


def _origin(node: Any) -> Tensor | None:
    """Tensor that this node of the graph stands for, transposed or copied or as it is; None for a result."""
    while node is not None and node.name() in ("TBackward0", "ToCopyBackward0"):
        node = node.next_functions[0][0]
    return getattr(node, "variable", None)


def _input_beside(node: Any, weight: Tensor) -> Tensor | None:
    """Input that `node` multiplies with the transposed weight; None if it does not."""
    place = {"AddmmBackward0": ("_saved_mat1", 2), "MmBackward0": ("_saved_self", 1)}.get(node.name())
    if place is None:
        return None
    name, factor = place
    below = node.next_functions[factor][0]
    if below is None or below.name() != "TBackward0" or _origin(below) is not weight:
        return None
    return getattr(node, name, None) if getattr(node, "_saved_alpha", 1) == 1 else None
