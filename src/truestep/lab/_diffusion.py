"""A small diffusion model of the digits: DDPM's noise levels, an MLP that takes noise away, samples, their distance."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from truestep.lab._digits import PIXELS

LEVELS: Final = 100
BETA: Final = (1e-3, 0.2)  # first and last, linear: DDPM's 1e-4 and .02 for a tenth of its 1000 levels
WIDTH: Final = 128
WAVES: Final = 8  # sines and cosines that tell the level


class Noise(NamedTuple):
    """The levels: share of signal in the square, and of noise."""

    signal: Float[Tensor, " levels"]  # alpha bar
    noise: Float[Tensor, " levels"]  # 1 - alpha bar


def levels(device: str) -> Noise:
    """DDPM's linear schedule."""
    signal = (1 - torch.linspace(*BETA, LEVELS, dtype=torch.float64)).cumprod(0)
    return Noise(signal.float().to(device), (1 - signal).float().to(device))


class Denoiser(nn.Module):
    """An MLP that sees the noisy image, its level scales and shifts the hidden units, and gives the noise.

    Where `image` is set, its output is an image and the noise is what is left.
    """

    def __init__(self, image: bool, generator: torch.Generator, device: str) -> None:
        super().__init__()
        self.image = image
        self.enter = nn.Linear(PIXELS, WIDTH)
        self.middle = nn.Linear(WIDTH, WIDTH)
        self.leave = nn.Linear(WIDTH, PIXELS)
        self.gates = nn.Linear(2 * WAVES, 4 * WIDTH)  # a factor and a shift for each hidden unit
        for parameter in self.parameters():
            bound = 1 / (parameter.shape[-1] if parameter.dim() > 1 else WIDTH) ** 0.5
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        self.levels = levels(device)
        self.to(device)

    def forward(self, x: Float[Tensor, "n pixels"], t: Int[Tensor, " n"]) -> Float[Tensor, "n pixels"]:
        """The noise in each image x at its level t."""
        signal, noise = self.levels.signal[t, None], self.levels.noise[t, None]  # [n, 1]
        angle = (t / LEVELS)[:, None] * torch.arange(1, WAVES + 1, device=x.device) * math.pi
        factor1, shift1, factor2, shift2 = self.gates(torch.cat([angle.sin(), angle.cos()], 1)).chunk(4, 1)
        hidden = nn.functional.silu(self.enter(x) * (1 + factor1) + shift1)
        hidden = nn.functional.silu(self.middle(hidden) * (1 + factor2) + shift2)
        out = self.leave(hidden)
        return (x - signal.sqrt() * out) / noise.sqrt() if self.image else out


@torch.no_grad()
def sample(model: Denoiser, count: int, generator: torch.Generator) -> Float[Tensor, "count pixels"]:
    """DDPM's ancestral sampling with the larger of its two variances; the end is clipped to an image's range."""
    signal, noise = model.levels
    x = torch.randn(count, PIXELS, generator=generator).to(signal.device)
    for t in reversed(range(LEVELS)):
        now = torch.full((count,), t, device=signal.device)
        before = signal[t - 1] if t else torch.ones_like(signal[0])
        beta = 1 - signal[t] / before
        x = (x - beta / noise[t].sqrt() * model(x, now)) / (1 - beta).sqrt()
        if t:
            x = x + beta.sqrt() * torch.randn(count, PIXELS, generator=generator).to(signal.device)
    return x.clamp(-1, 1)


def energy_distance(a: Float[Tensor, "n pixels"], b: Float[Tensor, "m pixels"]) -> float:
    """Twice the mean distance between a and b, less the mean distances within each; 0 on average if they are alike.

    Example:
        >>> energy_distance(torch.zeros(3, 1), torch.ones(2, 1))
        2.0
    """
    within = [torch.cdist(z, z).double().sum() / (len(z) * (len(z) - 1)) for z in (a, b)]
    return (2 * torch.cdist(a, b).double().mean() - within[0] - within[1]).item()
