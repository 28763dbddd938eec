"""The layers whose weights an optimizer steps, with the parameters that the layer's matrix is made of."""

from __future__ import annotations

from dataclasses import dataclass

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
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    holders = _holders(model)
    found: dict[str, Stepped] = {}
    tied: list[str] = []
    for name, module in layers(model).items():
        weight, bias = _own(module, "weight"), _own(module, "bias")
        if weight is None or not weight.requires_grad or (bias is None and (biased or module.bias is not None)):
            continue
        if bias is not None and not bias.requires_grad:
            continue
        _check(name, weight, bias, stepped)
        if id(weight) not in stepped:
            continue
        users = holders[id(weight)]
        if any(not isinstance(user, Layer) or user.bias is not bias for user in users):
            tied.append(name)
        elif users[0] is module:
            groups = module.groups if isinstance(module, nn.Conv2d) else 1
            found[name] = Stepped(name, tuple(u for u in users if isinstance(u, Layer)), weight, bias, groups)
    if tied:
        warn(
            f"the gradients of {', '.join(tied)} are left as they are: other modules use the same weight", stacklevel=5
        )
    if not found:
        kinds = "a Linear or Conv2d layer with a bias" if biased else "a Linear or Conv2d layer"
        msg = f"`model` must have {kinds} that `optimizer` steps, found none; pass the optimizer that steps this model"
        raise ValueError(msg)
    return found


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
