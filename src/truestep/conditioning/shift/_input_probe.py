"""Sums over the inputs of every layer of a model, taken by hooks while it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from truestep.conditioning._layers import Layer, grouped_delta_rows, grouped_rows, layers
from truestep.core import AbstractSum, Moments

_CHUNK = 2**22  # elements of rows that are held in float64 at a time: 32 MB

Record = TypeVar("Record", bound=AbstractSum)


@dataclass(frozen=True, slots=True)
class LayerSums(AbstractSum):
    """The `Moments` of a layer's inputs, by group of a convolution."""

    n: Float64[Tensor, ""]
    a: Float64[Tensor, "groups features"]
    aa: Float64[Tensor, "groups features features"]

    @property
    def moments(self) -> list[Moments]:
        """One record a group."""
        return [Moments(self.n, a, aa) for a, aa in zip(self.a, self.aa, strict=True)]


def layer_sums(rows: Float[Tensor, "groups rows features"]) -> LayerSums:
    """The sums of one batch of rows."""
    rows = rows.detach().double()
    return LayerSums(torch.full_like(rows.new_empty(()), rows.shape[1]), rows.sum(1), rows.mT @ rows)


class InputProbe:
    """Adds up the inputs of every Linear and Conv2d layer of `model`, as long as it is attached.

    Args:
        model: Whose layers to look at.
        tracked: Whether to leave out what runs without gradient (a teacher network, say).
        names: Which of them; None is all.
    """

    def __init__(self, model: nn.Module, *, tracked: bool, names: Collection[str] | None = None) -> None:
        found = {name: module for name, module in layers(model).items() if names is None or name in names}
        self.sums = {name: _no_rows(module) for name, module in found.items()}
        self._tracked = tracked
        self._handles = [m.register_forward_hook(self._hook(k), with_kwargs=True) for k, m in found.items()]

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        def see(module: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
            if torch.is_grad_enabled() or not self._tracked:
                for rows, _ in row_blocks(module, first_input(args, kwargs)):
                    self.sums[name] = added(self.sums[name], layer_sums(rows))

        return see


def added(record: Record, new: Record) -> Record:
    """Their sum, where `record` is."""
    device = getattr(record, fields(record)[0].name).device  # type: ignore[arg-type]
    return record + type(new)(*[getattr(new, field.name).to(device) for field in fields(new)])  # type: ignore[arg-type]


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a layer of one input was called with."""
    return args[0] if args else next(iter(kwargs.values()))


@torch.no_grad()
def row_blocks(module: Layer, x: Tensor, delta: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows in float64, some at a time, by group; and those of `delta` (else of nothing) beside them."""
    if isinstance(module, nn.Linear):
        x, size = x.reshape(-1, module.in_features), module.in_features
        delta = None if delta is None else delta.reshape(-1, module.out_features)
    else:
        x = x if x.dim() == 4 else x[None]
        size = x[:1].numel() * module.kernel_size[0] * module.kernel_size[1] // (module.stride[0] * module.stride[1])
        delta = delta if delta is None or delta.dim() == 4 else delta[None]
    at_a_time = max(_CHUNK // max(size, 1), 1)
    xs = x.detach().split(at_a_time)
    deltas = xs if delta is None else delta.split(at_a_time)
    for part, beside in zip(xs, deltas, strict=True):
        rows = grouped_rows(module, part).double()
        yield rows, rows[..., :0] if delta is None else grouped_delta_rows(module, beside).double()


def _no_rows(module: Layer) -> LayerSums:
    groups, features = 1, module.in_features if isinstance(module, nn.Linear) else 0
    if isinstance(module, nn.Conv2d):
        groups = module.groups
        features = module.in_channels // groups * module.kernel_size[0] * module.kernel_size[1]
    zero = zero_at(module)
    return LayerSums(zero, zero.new_zeros(groups, features), zero.new_zeros(groups, features, features))


def zero_at(module: nn.Module) -> Float64[Tensor, ""]:
    """A zero where the module's parameters or buffers are."""
    first = next((x for part in (module.parameters(), module.buffers()) for x in part), torch.zeros(()))
    return torch.zeros((), dtype=torch.float64, device=first.device)
