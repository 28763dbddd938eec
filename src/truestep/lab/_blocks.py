r"""The curvature of single layers of a small MLP: blocks of the GGN, entry by entry, and what they are made of.

The block of a layer :math:`s = W a + b` is :math:`G = E[\bar a \bar a^\top \otimes J^\top H J]`, with
:math:`\bar a = (a; 1)`, the Jacobian J of the network's outputs by s, and the loss's curvature H at the outputs.
Columns of (W, b) are stacked, as lectures do; torch's own order would be the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from truestep.conditioning import LayerShift, layer_shift
from truestep.core import moments
from truestep.lab._digits import CLASSES, PIXELS, digits

WIDTHS: Final = (PIXELS, 16, 12, CLASSES)
LR: Final = 0.01  # of Adam

Loss = Literal["softmax", "squared"]  # cross entropy, or half the squared distance to the one-hot label; means
ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {"logistic": nn.Sigmoid, "relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True, slots=True)
class Block:
    """What the block of one layer is made of.

    Args:
        a: Inputs of the layer, without the 1 of the bias.
        roots: Of each sample, vectors whose outer products add up to its curvature at the layer's outputs.
    """

    a: Float64[Tensor, "samples features"]
    roots: Float64[Tensor, "samples roots out"]

    @property
    def shift(self) -> LayerShift:
        """Mean and spread of the inputs."""
        return layer_shift(moments(self.a))

    @property
    def s(self) -> Float64[Tensor, "out out"]:
        """Mean curvature at the outputs."""
        return torch.einsum("nri,nrj->ij", self.roots, self.roots) / len(self.a)

    def matrix(self, inputs: Float64[Tensor, "samples inputs"]) -> Float64[Tensor, "size size"]:
        """The block, were these the inputs."""
        rows = torch.einsum("ni,nro->nrio", inputs, self.roots).flatten(0, 1).flatten(1)  # [samples * roots, size]
        return rows.T @ rows / len(self.a)

    @property
    def ggn(self) -> Float64[Tensor, "size size"]:
        """The block itself."""
        return self.matrix(with_one(self.a))

    @property
    def centred(self) -> float:
        """Largest eigenvalue that the weights would have if the inputs were centred: what ICS has no part in."""
        return float(torch.linalg.eigvalsh(self.matrix(self.a - self.a.mean(0)))[-1])


def with_one(a: Float64[Tensor, "samples features"]) -> Float64[Tensor, "samples inputs"]:
    """The inputs with the 1 that the bias multiplies."""
    return torch.cat([a, torch.ones_like(a[:, :1])], 1)


def standardized(a: Float64[Tensor, "samples features"]) -> Float64[Tensor, "samples features"]:
    """Inputs with mean 0 and covariance I, by the symmetric root.

    Example:
        >>> import torch
        >>> standardized(torch.tensor([[1.0], [5.0]], dtype=torch.float64))
        tensor([[-1.],
                [ 1.]], dtype=torch.float64)
    """
    centred = a - a.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(a))
    return centred @ (vectors * values.rsqrt()) @ vectors.T


def net(activation: str, widths: tuple[int, ...], generator: torch.Generator, device: str) -> nn.Sequential:
    """Linear layers in float64 with an activation in between; weights of variance 1 / fan-in, biases 0."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5)
            linear.bias.zero_()
        modules += [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*modules[:-1]).to(device)


def centred_digits(device: str, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some training images, less their mean and of mean square 1, and labels: only activations make a net uncentred."""
    data = digits(device, torch.float64)
    index = torch.randperm(len(data.train_y), generator=generator)[:samples]
    x = data.train_x[index]
    x = x - x.mean(0)
    return x / x.square().mean().sqrt(), data.train_y[index]


def principal_digits(device: str, samples: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Principal components of `centred_digits`, of mean square 1, so that no input is constant; and labels."""
    x, y = centred_digits(device, samples, generator)
    x = x @ torch.linalg.eigh(x.T @ x)[1][:, -count:]
    return x / x.square().mean().sqrt(), y


def mean_loss(loss: Loss, z: Tensor, y: Tensor) -> Tensor:
    """The loss of outputs z [samples, classes] and labels."""
    return cross_entropy(z, y) if loss == "softmax" else (z - one_hot(y, CLASSES)).square().sum(1).mean() / 2


def train(model: nn.Sequential, x: Tensor, y: Tensor, loss: Loss, steps: int) -> None:
    """Full-batch steps of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(steps):
        optimizer.zero_grad()
        mean_loss(loss, model(x), y).backward()
        optimizer.step()


def descent(model: nn.Module, x: Tensor, y: Tensor, lr: float, steps: int) -> list[float]:
    """Full-batch gradient descent on the cross entropy; the loss before each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def roots_at(loss: Loss, z: Tensor) -> Tensor:
    """Vectors [classes, samples, classes] whose outer products add up to each sample's curvature at its outputs."""
    if loss == "squared":
        return torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None].expand(-1, len(z), -1)
    p = z.detach().softmax(1)
    return (torch.diag_embed(p.sqrt()) - p.sqrt()[:, :, None] * p[:, None, :]).movedim(1, 0)


def blocks(model: nn.Sequential, x: Float64[Tensor, "samples pixels"], loss: Loss) -> list[Block]:
    """The block of every linear layer of a `net`, the head's last."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for module in model:
        if isinstance(module, nn.Linear):
            inputs.append(x.detach())
            outputs.append(x := module(x))
        else:
            x = module(x)
    vectors = roots_at(loss, outputs[-1])
    roots = [torch.autograd.grad(outputs[-1], outputs, v, retain_graph=True) for v in vectors]
    return [Block(a, torch.stack([r[i] for r in roots], 1)) for i, a in enumerate(inputs)]
