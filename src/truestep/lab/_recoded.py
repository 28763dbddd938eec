r"""Nets that compute one function in other coordinates: a fixed affine map at the inputs and outputs of each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from truestep.lab._claim import Measurement

Map: TypeAlias = tuple[Tensor, Tensor]  # matrix [size, size] and offset [size]
Maker: TypeAlias = Callable[[int, torch.Generator], Map]
MOST: Final = 3.0  # a unit's scale is between 1 / MOST and MOST
MIXED: Final = 0.3  # how far a layer's map is from the identity


class Affine(nn.Module):
    """A map that is not trained.

    Example:
        >>> import torch
        >>> Affine(2 * torch.eye(1), torch.ones(1))(torch.tensor([[3.0]]))
        tensor([[7.]])
    """

    matrix: Tensor
    offset: Tensor

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        """Rows mapped."""
        return x @ self.matrix.T + self.offset


def _randn(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(size, generator=generator, dtype=torch.float64)


def identity(size: int, generator: torch.Generator) -> Map:
    """No map."""
    del generator
    return torch.eye(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)


def shifts(size: int, generator: torch.Generator) -> Map:
    """A standard normal offset for each unit."""
    return torch.eye(size, dtype=torch.float64), _randn((size,), generator)


def units(size: int, generator: torch.Generator) -> Map:
    """A scale and an offset for each unit."""
    logs = 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1
    return torch.diag(MOST**logs), _randn((size,), generator)


def mixing(size: int, generator: torch.Generator) -> Map:
    """Units mixed with each other, and an offset."""
    eye = torch.eye(size, dtype=torch.float64)
    return eye + MIXED * _randn((size, size), generator), _randn((size,), generator)


@torch.no_grad()
def recoded_layer(layer: nn.Linear, into: Map, out_of: Map) -> nn.Linear:
    r"""The layer that does the same between the maps: :math:`N (W' (M a + c) + b') + d = W a + b`."""
    (m, c), (n, d) = into, out_of
    other = nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64, device=layer.weight.device)
    other.weight.copy_(torch.linalg.solve(n, torch.linalg.solve(m.T, layer.weight.T).T))
    other.bias.copy_(torch.linalg.solve(n, layer.bias - d) - other.weight @ c)
    return other


def recoded(
    model: nn.Sequential, maker: Maker, generator: torch.Generator, *, outputs: bool = True, first: bool = True
) -> nn.Sequential:
    """The same function with maps around each linear layer.

    Args:
        model: Linear layers with biases, and modules without parameters.
        maker: Draws a map.
        generator: ... from this one, on the CPU.
        outputs: Whether the outputs of layers are mapped too, and not their inputs alone.
        first: Whether the inputs of the network are mapped too.
    """
    modules: list[nn.Module] = []
    for i, module in enumerate(model):
        if not isinstance(module, nn.Linear):
            modules.append(module)
            continue
        device = module.weight.device
        into = (maker if first or i else identity)(module.in_features, generator)
        out_of = (maker if outputs else identity)(module.out_features, generator)
        (m, c), (n, d) = ((x.to(device), y.to(device)) for x, y in (into, out_of))
        modules += [Affine(m, c), recoded_layer(module, (m, c), (n, d)), Affine(n, d)]
    return nn.Sequential(*modules)


@torch.no_grad()
def tanh_twin(model: nn.Sequential) -> nn.Sequential:
    r"""A net of logistic units as one of tanh units: :math:`\sigma(s) = (1 + \tanh(s/2))/2`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 2)).double()
        >>> x = torch.randn(4, 2, dtype=torch.float64)
        >>> torch.allclose(net(x), tanh_twin(net)(x), rtol=1e-12)
        True
    """
    half = 0.5
    modules: list[nn.Module] = []
    behind = [*list(model)[1:], nn.Identity()]
    for module, after in zip(model, behind, strict=True):
        if not isinstance(module, nn.Linear):
            modules.append(nn.Tanh() if isinstance(module, nn.Sigmoid) else module)
            continue
        size = module.in_features, module.out_features
        eyes = [torch.eye(k, dtype=torch.float64, device=module.weight.device) for k in size]
        zeros = [torch.zeros(k, dtype=torch.float64, device=module.weight.device) for k in size]
        into = (2 * eyes[0], zeros[0] - 1) if modules else (eyes[0], zeros[0])  # tanh = 2 logistic - 1
        out_of = (eyes[1] / half, zeros[1]) if isinstance(after, nn.Sigmoid) else (eyes[1], zeros[1])
        modules.append(recoded_layer(module, into, out_of))
    return nn.Sequential(*modules)


def difference(one: Float64[Tensor, "*shape"], other: Float64[Tensor, "*shape"]) -> float:
    """Largest difference; infinite where one is not finite.

    Example:
        >>> import torch
        >>> difference(torch.zeros(2).double(), torch.tensor([1.0, torch.nan]).double())
        inf
    """
    return float((one - other).abs().nan_to_num(nan=torch.inf).max())


@runtime_checkable
class Trained(Protocol):
    """A way to train."""

    def train(self, model: nn.Sequential, x: Tensor, y: Tensor, steps: int) -> Tensor:
        """The logits in the end."""
        ...


def measured(
    arms: Mapping[str, Trained],
    codes: Iterable[str],
    pair: Callable[[str], tuple[nn.Sequential, nn.Sequential, Tensor, Tensor]],
    steps: int,
) -> Measurement:
    """How far the logits of twins are apart after training, by arm and code, and how far they have come."""
    out: Measurement = {}
    for code in codes:
        for name, arm in arms.items():
            plain, twin, x, y = pair(code)
            start = plain(x).detach()
            end = arm.train(plain, x, y, steps)
            out[f"{name}_{code}"] = difference(end, arm.train(twin, x, y, steps))
            out[f"{name}_way"] = difference(end, start)
    return out
