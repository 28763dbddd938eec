"""The layers whose weights an optimizer steps, with the parameters that the layer's matrix is made of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.conditioning._layers import Layer, layers
from truestep.core import is_distributed, warn


@dataclass(frozen=True, slots=True, eq=False)
class Stepped:
    """A layer, or several that share weight and bias.

    Args:
        name: Of the first module, in the bare model.
        modules: Those that multiply with the weight.
        weight: A parameter of its own, as all its gradient comes from these modules.
        bias: None where the layer has none.
        groups: Of a convolution; 1 for all other layers.
    """

    name: str
    modules: tuple[Layer, ...]
    weight: nn.Parameter
    bias: nn.Parameter | None
    groups: int

    @property
    def features(self) -> int:
        """Length of a row that the matrix of one group multiplies."""
        return self.weight[0].numel()

    def by_group(self, x: Float[Tensor, "..."]) -> Float[Tensor, "groups out *features"]:
        """A tensor of the weight's or the bias's shape, one matrix or vector a group."""
        return x.reshape(self.groups, x.shape[0] // self.groups, *([-1] if x.dim() > 1 else []))


def stepped_layers(model: nn.Module, optimizer: Optimizer, *, biased: bool) -> dict[str, Stepped]:
    """Linear and Conv2d layers whose trainable parameters `optimizer` steps, by name.

    Left alone: frozen layers, those of another optimizer, weights that are computed (weight norm), and, with a
    warning, weights that other modules use in another way (an embedding).

    Args:
        model: Wrapped or bare.
        optimizer: Any.
        biased: Whether layers without a bias are left out.

    Raises:
        ValueError: If parameters are sharded, `optimizer` steps only one of a layer's weight and bias, or no layer
            is left.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
        >>> optimizer = torch.optim.SGD(model.parameters())
        >>> list(stepped_layers(model, optimizer, biased=True)), list(stepped_layers(model, optimizer, biased=False))
        (['0'], ['0', '2'])
    """
    stepped = _stepped(optimizer)
    trainable = _trainable(model, biased=biased)
    for layer in trainable:
        _check(layer.name, layer.weight, layer.bias, stepped)
    found, tied = _found(model, trainable, stepped)
    if tied:
        warn(
            f"the gradients of {', '.join(tied)} are left as they are: other modules use the same weight", stacklevel=5
        )
    if not found:
        kinds = "a Linear or Conv2d layer with a bias" if biased else "a Linear or Conv2d layer"
        msg = f"`model` must have {kinds} that `optimizer` steps, found none; pass the optimizer that steps this model"
        raise ValueError(msg)
    return found


class Newcomers:
    """Layers that an optimizer steps now, and did not when a transform was attached: unfrozen or added since.

    Looking is cheap: the model is gone through only where a frozen parameter is no longer, or groups have grown.

    Args:
        model: Wrapped or bare.
        optimizer: Any.
        known: Names of the layers that are transformed.
        biased: Whether layers without a bias are left out.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, known: Collection[str], *, biased: bool) -> None:
        self._model, self._optimizer, self._known, self._biased = model, optimizer, frozenset(known), biased
        self._look()

    def with_gradient(self) -> list[str]:
        """Names of those whose weight has a gradient."""
        if self._size != self._count() or any(p.requires_grad for p in self._frozen):
            self._look()
        return [layer.name for layer in self._new if layer.weight.grad is not None]

    def _look(self) -> None:
        self._size = self._count()
        parameters = (p for module in layers(self._model).values() for p in module.parameters(recurse=False))
        self._frozen = [p for p in parameters if not p.requires_grad]
        found, _ = _found(self._model, _trainable(self._model, biased=self._biased), _stepped(self._optimizer))
        self._new = [layer for name, layer in found.items() if name not in self._known]

    def _count(self) -> int:
        return sum(len(group["params"]) for group in self._optimizer.param_groups)


def wide(grad: Tensor) -> Tensor:
    """A gradient in float32 at least."""
    return grad.to(torch.promote_types(grad.dtype, torch.float32))


def shaped_like(value: Tensor, grad: Tensor) -> Tensor:
    """`value` in shape, format and memory order of `grad`."""
    value = value.reshape(grad.shape)
    if value.dtype == grad.dtype and value.stride() == grad.stride():
        return value
    return torch.empty_like(grad).copy_(value)


def _stepped(optimizer: Optimizer) -> set[int]:
    """Parameters by their identity."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _trainable(model: nn.Module, *, biased: bool) -> list[Stepped]:
    """Each layer by itself, whoever steps it and whoever uses its weight."""
    found: list[Stepped] = []
    for name, module in layers(model).items():
        weight, bias = _own(module, "weight"), _own(module, "bias")
        if weight is None or not weight.requires_grad or (bias is None and (biased or module.bias is not None)):
            continue
        if bias is None or bias.requires_grad:
            groups = module.groups if isinstance(module, nn.Conv2d) else 1
            found.append(Stepped(name, (module,), weight, bias, groups))
    return found


def _found(model: nn.Module, trainable: list[Stepped], stepped: set[int]) -> tuple[dict[str, Stepped], list[str]]:
    """Those that are stepped, with all that share their weight; names of those whose weight has other uses too."""
    holders = _holders(model)
    found: dict[str, Stepped] = {}
    tied: list[str] = []
    for layer in trainable:
        users = holders[id(layer.weight)]
        if id(layer.weight) not in stepped:
            continue
        if any(not isinstance(user, Layer) or user.bias is not layer.bias for user in users):
            tied.append(layer.name)
        elif users[0] is layer.modules[0]:
            found[layer.name] = replace(layer, modules=tuple(u for u in users if isinstance(u, Layer)))
    return found, tied


def _own(module: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter itself; None for none, and for what a parametrization computes."""
    parameters: dict[str, nn.Parameter | None] = vars(module)["_parameters"]
    return parameters.get(name)


def _holders(model: nn.Module) -> dict[int, list[nn.Module]]:
    """Modules by the parameters that they hold."""
    holders: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            holders.setdefault(id(p), []).append(module)
    return holders


def _check(name: str, weight: Tensor, bias: Tensor | None, stepped: set[int]) -> None:
    if is_distributed(weight):
        msg = (
            f"`model` must have whole parameters on each rank, found {name}.weight sharded (FSDP, tensor parallel); "
            "take DistributedDataParallel"
        )
        raise ValueError(msg)
    if bias is not None and (id(weight) in stepped) != (id(bias) in stepped):
        msg = f"`optimizer` must step both {name}.weight and {name}.bias, or none, found one of them; freeze the other"
        raise ValueError(msg)
