r"""Small nets under full-batch gradient descent, one copy for each lr: what normalisation does to covariate shift.

The nets are those that the "good class project" of source 001 asks for: 20 whitened inputs, so that what is
ill-conditioned is so through the hidden layers, three of 14 units, ten classes. A variant says what stands between a
layer and the next one; in the `direct` ones the statistics of the batch are constants to the backward pass, while the
forward pass is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan
from typing import Final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.conditioning.centering import unit_noise
from truestep.conditioning.transforms._standardizing import standardized
from truestep.lab._digits import CLASSES, digits
from truestep.lab._variants import ACTIVATIONS, VARIANTS, Variant

IMAGES: Final = 400
INPUTS: Final = 20
WIDTHS: Final = (14, 14, 14)
STEPS: Final = 300
LRS: Final = tuple(2 ** (k / 2) for k in range(-10, 10))  # a factor √2 apart, from 1/32 to 23
REACHED: Final = 0.1  # training loss, in nats
HELD: Final = 30  # steps for which it must stay there
EPS: Final = 1e-5  # of the norm, torch's default
DAMPING: Final = 1e-3  # of standardising, in units of the mean variance


def images(seed: int, device: str = "cpu") -> tuple[Float64[Tensor, "n inputs"], Int[Tensor, " n"]]:
    """Digits in their first principal components, each with mean 0 and variance 1, and their labels."""
    data = digits("cpu", torch.float64)
    index = torch.randperm(len(data.train_y), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    x = data.train_x[index]
    left, _, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return (left[:, :INPUTS] * IMAGES**0.5).to(device), data.train_y[index].to(device)


class Stack(nn.Module):
    """Copies of one net, which read each other nowhere; gives [copies, n, classes].

    Args:
        activation: A key of `ACTIVATIONS`.
        variant: What it is made of.
        copies: How many.
        seed: Of weights and shifts; normal weights of variance 1 / fan-in, 2 / fan-in under ReLU, biases 0.
        device: Where it lives.
        dtype: Its number format.

    Example:
        >>> net = Stack("relu", VARIANTS["BN"], 3, seed=0)
        >>> net(torch.randn(5, INPUTS, dtype=torch.float64)).shape
        torch.Size([3, 5, 10])
    """

    def __init__(
        self,
        activation: str,
        variant: Variant,
        copies: int,
        seed: int,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.activation, self.variant = ACTIVATIONS[activation], variant
        generator = torch.Generator().manual_seed(seed)
        self.noise = torch.Generator().manual_seed(seed)
        variance, like = 2.0 if activation == "relu" else 1.0, torch.zeros((), device=device, dtype=dtype)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.gains, self.shifts = nn.ParameterList(), nn.ParameterList()
        for fan_in, out in pairwise((INPUTS, *WIDTHS, CLASSES)):
            w = torch.randn(out, fan_in, generator=generator, dtype=torch.float64) * (variance / fan_in) ** 0.5
            self.weights.append(w.to(like).expand(copies, -1, -1).clone())
            self.biases.append(like.new_zeros(copies, out))
        self.added = [torch.randn(width, generator=generator, dtype=torch.float64).to(like) for width in WIDTHS]
        for width in WIDTHS:
            if variant.norm:
                self.shifts.append(like.new_zeros(copies, 1, width))
            if variant.norm == "full":
                self.gains.append(like.new_ones(copies, 1, width))
        self.inputs: list[Tensor] = []  # of each layer at the last pass, [copies, n, features]
        self.held: list[tuple[Tensor, Tensor]] = []  # statistics by layer, if they are held fast
        self.seen: list[tuple[Tensor, Tensor]] = []  # those of the last pass

    def forward(self, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "copies n classes"]:
        """Logits; noise only in training mode, while the norm takes the batch's statistics in either."""
        variant, a = self.variant, x.expand(len(self.weights[0]), -1, -1)
        self.inputs, self.seen = [a], []
        moved = torch.Generator().manual_seed(self.noise.initial_seed()) if variant.moved == "fixed" else self.noise
        for layer in range(len(WIDTHS)):
            z = self._linear(a, layer)
            if variant.norm and not variant.after:
                z = self._normalized(z, layer)
            if variant.moved and (self.training or variant.moved == "fixed"):
                z = _moved(z, 0.0 if variant.moved == "fixed" else 0.1, moved)
            a = self.activation(z)
            if variant.norm and variant.after:
                a = self._normalized(a, layer)
            if variant.shifted:
                a = a + self.added[layer]
            self.inputs.append(a)
        return self._linear(a, len(WIDTHS))

    def _linear(self, a: Tensor, layer: int) -> Tensor:
        return torch.baddbmm(self.biases[layer][:, None], a, self.weights[layer].mT)

    def _normalized(self, z: Tensor, layer: int) -> Tensor:
        direct, held = self.variant.direct, self.held[layer] if self.held else None
        mean = held[0] if held else _constant(z.mean(1, keepdim=True), direct)
        z = z - mean
        if self.variant.norm == "centre":
            self.seen.append((mean, mean))
            return z + self.shifts[layer]
        variance = held[1] if held else _constant(z.square().mean(1, keepdim=True), direct)
        self.seen.append((mean, variance))
        return torch.addcmul(self.shifts[layer], z, self.gains[layer] * (variance + EPS).rsqrt())


def _constant(statistic: Tensor, constant: bool) -> Tensor:
    return statistic.detach() if constant else statistic


def _moved(z: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Another mean and scale for each unit, the same for all copies."""
    shift, factor = unit_noise(z[0], jitter=jitter, generator=generator)
    return z * factor + shift


def mean_losses(logits: Float[Tensor, "copies n classes"], y: Int[Tensor, "*copies n"]) -> Float[Tensor, " copies"]:
    """Cross-entropy of each copy, in nats."""
    each = cross_entropy(logits.flatten(0, 1), y.expand(logits.shape[:2]).flatten(), reduction="none")
    return each.view(logits.shape[:2]).mean(1)


@dataclass(frozen=True, slots=True)
class Course:
    """How fast a variant trains at its best lr.

    Args:
        steps: Until the training loss is `REACHED` for at least `HELD` steps; one more than were done for never.
        lr: The first that was there; nan for none.
    """

    steps: int
    lr: float


def course(activation: str, variant: str, seed: int, *, device: str = "cpu", steps: int = STEPS) -> Course:
    """Train at all lrs at once, in float32, until the first has held.

    Example:
        >>> course("relu", "BN", seed=0, steps=1)
        Course(steps=2, lr=nan)
    """
    x, y = images(seed, device)
    net = Stack(activation, VARIANTS[variant], len(LRS), seed, device=device, dtype=torch.float32)
    return descend(net, x.float(), y, LRS, steps)


def descend(
    net: Stack, x: Float[Tensor, "n inputs"], y: Int[Tensor, " n"], lrs: Sequence[float], steps: int, held: int = HELD
) -> Course:
    """Full-batch gradient descent, an lr for each copy, until the first has held; losses are taken without noise."""
    rates = torch.tensor(lrs, dtype=x.dtype, device=x.device)
    below = torch.zeros(len(lrs), dtype=torch.long, device=x.device)  # for how many steps
    for k in range(steps + held):
        loss = step(net, x, y, rates)
        below = torch.where(loss <= REACHED, below + 1, 0)  # nan is above
        longest = int(below.max())
        if longest >= held or k - longest >= steps:
            return Course(k + 1 - held, lrs[int(below.argmax())]) if longest >= held else Course(steps + 1, nan)
    return Course(steps + 1, nan)


def step(
    net: Stack, x: Float[Tensor, "n inputs"], y: Int[Tensor, " n"], rates: Float[Tensor, " copies"]
) -> Float[Tensor, " copies"]:
    """One step of each copy; gives the losses before it."""
    parameters = list(net.parameters())
    loss = mean_losses(net(x), y)
    gradients = dict(zip(parameters, torch.autograd.grad(loss.sum(), parameters), strict=True))
    if net.variant.standardizing:
        _standardize(net, gradients)
    quiet = _quiet_losses(net, x, y) if net.variant.moved == "redrawn" else loss.detach()
    with torch.no_grad():
        for p, g in gradients.items():
            p.sub_(g * rates.view(-1, *[1] * (g.dim() - 1)))
    return quiet


@torch.no_grad()
def _standardize(net: Stack, gradients: dict[nn.Parameter, Tensor]) -> None:
    """Each layer's gradient becomes that of standardised inputs."""
    for w, b, inputs in zip(net.weights, net.biases, net.inputs, strict=True):
        a = inputs.double()
        mean = a.mean(1)  # [copies, features]
        spread = a.mT @ a / a.shape[1] - mean[:, :, None] * mean[:, None, :]
        gradients[w], step = standardized(gradients[w], gradients[b], mean, spread, damping=DAMPING)
        assert step is not None
        gradients[b] = step


@torch.no_grad()
def _quiet_losses(net: Stack, x: Tensor, y: Tensor) -> Tensor:
    net.eval()
    losses = mean_losses(net(x), y)
    net.train()
    return losses
