"""What curvature a net of the class project starts with: how much of it covariate shift makes, and its largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from truestep.conditioning import sharpness
from truestep.lab._covariate_shift import Stack, images, mean_losses
from truestep.lab._variants import VARIANTS

DRAWS: Final = 64  # of labels, for the ICS share


@dataclass(frozen=True, slots=True)
class Shift:
    """The first net of a variant.

    Args:
        nu: Squared norm of the mean input of the hidden layers behind the first, with 1 for the bias; their mean.
        hidden: Share of the GGN's trace that lies along the mean input, over the same layers.
        head: The same for the output layer.
    """

    nu: float
    hidden: float
    head: float


def shift_at_start(activation: str, variant: str, seed: int, *, device: str = "cpu", draws: int = DRAWS) -> Shift:
    r"""Shift of the inputs, and the share of curvature that it makes.

    .. math:: \rho = \frac{\operatorname{tr} P^\top G P}{\operatorname{tr} G}
        = \frac{E_y \|\bar G \bar m\|^2 / \nu}{E_y \|\bar G\|^2}, \qquad P = \bar m / \sqrt\nu \otimes I

    with the gradient :math:`\bar G = (G_W, g_b)` of the whole batch under labels y drawn from the model: samples that
    share statistics are not independent, so that a sum over samples of squares would leave the statistics path out.
    """
    x, _ = images(seed, device)
    net = Stack(activation, VARIANTS[variant], draws, seed, device=device).eval()
    logits = net(x)
    drawn = torch.multinomial(
        logits[0].detach().softmax(1).cpu(), draws, True, generator=torch.Generator().manual_seed(seed)
    )
    loss = mean_losses(logits, drawn.T.to(device))
    gradients = torch.autograd.grad(loss.sum(), [*net.weights, *net.biases])
    half = len(net.weights)
    along: list[float] = []
    whole: list[float] = []
    nus: list[float] = []
    for gw, gb, a in list(zip(gradients[:half], gradients[half:], net.inputs, strict=True))[1:]:
        mean = a[0].detach().mean(0)
        nus.append(float(mean @ mean) + 1)
        along.append(float((gw @ mean + gb).square().sum()) / nus[-1])
        whole.append(float(gw.square().sum() + gb.square().sum()))
    return Shift(sum(nus[:-1]) / len(nus[:-1]), sum(along[:-1]) / sum(whole[:-1]), along[-1] / whole[-1])


def largest_at_start(activation: str, variant: str, seed: int, *, device: str = "cpu") -> float:
    """Largest eigenvalue of the first net's GGN; of the net with fixed statistics where the variant is direct."""
    x, y = images(seed, device)
    net = Stack(activation, VARIANTS[variant], 1, seed, device=device).eval()
    if VARIANTS[variant].direct:
        with torch.no_grad():
            net(x)
        net.held = net.seen
    found = sharpness(net, (x, y), lambda net, batch: mean_losses(net(batch[0]), batch[1]).mean(), matrix="ggn")
    return float(found.eigenvalues[0])
