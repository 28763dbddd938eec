"""Sums over the gradients that come back to the layers of a model, in one backward pass a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from truestep.conditioning._layers import Layer, grouped_delta_rows, layers
from truestep.conditioning.shift._direct import Normalization, PathSums, slope
from truestep.conditioning.shift._ics_share import ShareSums, along_mean
from truestep.conditioning.shift._input_probe import added, first_input, row_blocks, zero_at
from truestep.core._names import bare, unwrapped


@dataclass(slots=True)
class _LayerUse:
    """One call of a layer: what of its input the share needs, and where its gradient comes out."""

    name: str
    module: Layer
    x: Tensor
    along: Tensor
    whole: Tensor
    edge: GradientEdge


@dataclass(slots=True)
class _PathUse:
    """One call of a normalization layer, and the call of the layer whose output it took."""

    name: str
    slope: Tensor
    before: GradientEdge
    after: GradientEdge
    fed: _LayerUse | None


class GradientProbe:
    """Sees the inputs of every layer and, of one backward pass a batch, the gradients at its outputs.

    Edges of the autograd graph are noted at the time of the call: what is done in place to an output later is not in
    them. Where no gradient would flow (frozen weights at the start of a model) the output is made to want one.
    """

    def __init__(self, model: nn.Module, means: dict[str, Tensor]) -> None:
        self._means, norms = means, normalizations(model)
        seen = {name: module for name, module in layers(model).items() if name in means}
        self.shares = {name: ShareSums(*[zero_at(module)] * 2) for name, module in seen.items()}
        self.paths = {name: PathSums(*[zero_at(module)] * 4) for name, module in norms.items()}
        self._recording = False
        self._uses: list[_LayerUse] = []
        self._paths: list[_PathUse] = []
        self._outputs: dict[int, tuple[Tensor, int, _LayerUse]] = {}
        self._entered: dict[str, tuple[Tensor, GradientEdge, _LayerUse | None]] = {}
        self._handles = [m.register_forward_hook(self._layer(k), with_kwargs=True) for k, m in seen.items()]
        self._handles += [m.register_forward_pre_hook(self._enter(k), with_kwargs=True) for k, m in norms.items()]
        self._handles += [m.register_forward_hook(self._leave(k)) for k, m in norms.items()]

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def batch(self, loss: Callable[[], tuple[Tensor, Tensor | None]]) -> None:
        """Add one batch: `loss()` runs the model and gives the mean loss, and its total weight where that is known."""
        self._recording = True
        try:
            mean, total = loss()
        finally:
            self._recording = False  # a checkpointed layer runs again in the backward pass
        edges = [use.edge for use in self._uses]
        edges += [edge for use in self._paths for edge in (use.before, use.after)]
        if not edges or not mean.requires_grad:
            msg = "`loss_fn` must run the model it is given with gradients: none of its layers was called with them"
            raise ValueError(msg)
        found = iter(torch.autograd.grad(mean, edges, allow_unused=True))
        with torch.no_grad():
            self._add_shares(found, total)
            self._add_paths(found, total)
        self._uses, self._paths, self._outputs = [], [], {}

    def _add_shares(self, found: Iterator[Tensor | None], total: Tensor | None) -> None:
        counts = _counts([(use.name, use.along.shape[-1]) for use in self._uses])
        for use in self._uses:
            delta = next(found)
            if delta is None:
                continue
            weight = grouped_delta_rows(use.module, delta).double().square().sum(-1)
            weight = weight * _factor(total, counts[use.name], weight) ** 2
            new = ShareSums((use.along * weight).sum(), (use.whole * weight).sum())
            self.shares[use.name] = added(self.shares[use.name], new)

    def _add_paths(self, found: Iterator[Tensor | None], total: Tensor | None) -> None:
        pairs = [(use, next(found), next(found)) for use in self._paths]
        counts = _counts([(use.name, after.numel()) for use, _, after in pairs if after is not None])
        for use, before, after in pairs:
            if before is None or after is None:
                continue
            factor = _factor(total, counts[use.name], use.slope)
            gradients = after.double() * use.slope * factor, before.double() * factor  # direct, full
            squares = [g.square().sum() for g in gradients]
            if use.fed is None:
                squares += [torch.zeros_like(squares[0])] * 2
            else:
                squares += [_weight_gradient(use.fed, g).square().sum() for g in gradients]
            self.paths[use.name] = added(self.paths[use.name], PathSums(*squares))

    def _layer(self, name: str) -> Callable[..., Tensor | None]:
        def see(module: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():
                return None
            entry = output if output.requires_grad else output.detach().requires_grad_()
            out = output if output.requires_grad else entry.clone()  # a leaf could not be changed in place
            if self._recording:
                x = first_input(args, kwargs).detach()
                parts = [
                    along_mean(self._means[name].to(x.device), rows, bias=module.bias is not None)
                    for rows, _ in row_blocks(module, x)
                ]
                along, whole = (torch.cat(part, -1) for part in zip(*parts, strict=True))
                use = _LayerUse(name, module, x, along, whole, get_gradient_edge(entry))
                self._uses.append(use)
                self._outputs[id(out)] = (out, out._version, use)
            return out

        return see

    def _enter(self, name: str) -> Callable[..., Any]:
        def see(module: Normalization, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not torch.is_grad_enabled():
                return None
            x = first_input(args, kwargs)
            own = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()  # what else takes x is not in it
            if self._recording:
                out, version, use = self._outputs.get(id(x), (None, -1, None))
                fed = use if out is x and version == x._version else None
                self._entered[name] = (slope(module, x.detach()), get_gradient_edge(own), fed)
            return ((own, *args[1:]), kwargs) if args else (args, {**kwargs, "input": own})

        return see

    def _leave(self, name: str) -> Callable[..., None]:
        def see(_: nn.Module, __: Any, output: Tensor) -> None:
            if self._recording and torch.is_grad_enabled():
                factor, before, fed = self._entered.pop(name)
                self._paths.append(_PathUse(name, factor, before, get_gradient_edge(output), fed))

        return see


def normalizations(model: nn.Module) -> dict[str, Normalization]:
    """Normalization layers by the name they have in the bare model."""
    modules = unwrapped(model).named_modules()
    return {bare(name): module for name, module in modules if isinstance(module, Normalization) and _is_plain(module)}


def skipped(model: nn.Module) -> dict[str, str]:
    """Class of each module that is a normalization layer, by type or by its class's name, but not measured."""
    found = {bare(name): module for name, module in unwrapped(model).named_modules() if not any(module.children())}
    for name in (*normalizations(model), *layers(model)):
        found.pop(name, None)
    return {name: type(module).__name__ for name, module in found.items() if _is_normalization(module)}


def _is_plain(module: nn.Module) -> bool:
    """Whether its `forward` is not a subclass's own, which may normalize over something else."""
    owner = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    return owner.__module__.startswith(("torch.nn.", "truestep."))


def _is_normalization(module: nn.Module) -> bool:
    """By type or by name; weight and spectral norm of torch.nn.utils are no layers."""
    kind = type(module).__name__
    named = ("norm" in kind.lower() or "LRN" in kind) and not type(module).__module__.startswith("torch.nn.utils.")
    return named or isinstance(module, Normalization)


def _weight_gradient(use: _LayerUse, delta: Tensor) -> Tensor:
    """The gradient of the layer's weight if that of its output is `delta`; groups first."""
    return torch.stack([deltas.mT @ rows for rows, deltas in row_blocks(use.module, use.x, delta)]).sum(0)


def _factor(total: Tensor | None, count: int, like: Tensor) -> Tensor:
    """What frees a gradient of the mean's 1/N: the total weight, or the batch's size where only a mean is known."""
    return like.new_full((), count) if total is None else total.to(like)


def _counts(sizes: list[tuple[str, int]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, size in sizes:
        counts[name] = counts.get(name, 0) + size
    return counts
