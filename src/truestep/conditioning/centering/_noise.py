"""Noise of another mean and scale in each unit at each step: covariate shift put back behind a normalization."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def unit_noise(
    x: Float[Tensor, "samples units *space"],
    mean: float | int = 0.5,
    scale: float | int = 1.25,
    jitter: float | int = 0.1,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "samples units"], Float[Tensor, "samples units"]]:
    r"""Draw what to add to each unit of each sample, and what to multiply it with before.

    .. math:: m_{nj} = \mu_j + r u_{nj}, \quad s_{nj} = \sigma_j + r z_{nj}, \qquad
        \mu_j \sim U(-n_\mu, n_\mu), \quad \sigma_j \sim U(1, n_\sigma), \quad u_{nj} \sim U(-1, 1), \quad
        z_{nj} \sim N(0, 1)

    Args:
        x: Activations, of which only shape, dtype and device are read.
        mean: :math:`n_\mu`, the largest shift of a unit's mean.
        scale: :math:`n_\sigma`, the other end of the units' scales.
        jitter: :math:`r`, by how much single samples of a unit differ.
        generator: Draws on its own device; None for torch's random numbers on the device of `x`.

    Example:
        >>> import torch
        >>> shift, factor = unit_noise(torch.zeros(2, 3), jitter=0.0)
        >>> bool((shift[0] == shift[1]).all()), bool(((1 <= factor) & (factor <= 1.25)).all())
        (True, True)
    """
    samples, units = x.shape[:2]
    dtype = torch.promote_types(x.dtype, torch.float32)
    device = x.device if generator is None else generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype, device=device)

    means = mean * (2 * uniform(units) - 1)
    scales = 1 + (scale - 1) * uniform(units)
    shift = means + jitter * (2 * uniform(samples, units) - 1)
    factor = scales + jitter * torch.randn(samples, units, generator=generator, dtype=dtype, device=device)
    return shift.to(x.device), factor.to(x.device)


def noisy_shift(
    x: Float[Tensor, "samples units *space"],
    shift: Float[Tensor, "samples units"],
    factor: Float[Tensor, "samples units"],
) -> Float[Tensor, "samples units *space"]:
    """`factor * x + shift`, one pair of numbers for each unit of each sample; in the dtype of `x`.

    Example:
        >>> import torch
        >>> noisy_shift(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 2.0]]))
        tensor([[1.5000, 3.0000]])
    """
    shape = (*x.shape[:2], *[1] * (x.dim() - 2))
    return (x * factor.view(shape) + shift.view(shape)).to(x.dtype)


class NoisyShift(nn.Module):
    r"""Gives each unit another mean and scale at each training step, by noise; the identity in evaluation.

    .. math:: y_{nj} = s_{nj} x_{nj} + m_{nj}

    with :math:`m` and :math:`s` as `unit_noise` draws them. Put behind a BatchNorm it brings covariate shift back
    and leaves what BatchNorm does to the gradient: if training is still as fast, removing the shift was not what
    helped. Takes [N, C], [N, C, L] and [N, C, H, W]; a channel is a unit, and all places of a sample share its noise.

    Args:
        mean: Largest shift of a unit's mean, in units of the activation.
        scale: The units' scales lie between 1 and this one.
        jitter: By how much single samples of a unit differ, in shift and scale; 0 for none.
        generator: For the random numbers; None for torch's own.

    Raises:
        ValueError: If `mean` or `jitter` is negative, or `scale` is not positive.

    Note:
        Every forward pass in training draws anew: micro-batches differ, ranks as their seeds do, and a recomputed
        pass (activation checkpointing) too, unless `generator` is None.

    Example:
        >>> import torch
        >>> layer = NoisyShift(generator=torch.Generator().manual_seed(0))
        >>> x = torch.zeros(4, 2)
        >>> bool((layer(x) == layer(x)).any()), bool((layer.eval()(x) == x).all())
        (False, True)

    References:
        Santurkar, Tsipras, Ilyas, Madry, "How does batch normalization help optimization?" (2018, arXiv 1805.11604),
        the "noisy" BatchNorm of section 2.2 and the appendix. Note: Deviation: our defaults are quoted from memory of
        that appendix, and in a convolution a unit is a channel of a sample; look there before you call it a replica.
    """

    def __init__(
        self,
        mean: float | int = 0.5,
        scale: float | int = 1.25,
        jitter: float | int = 0.1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"mean": mean, "jitter": jitter}.items():
            if not value >= 0:
                msg = f"`{name}` must be a number from 0 on, found {value}"
                raise ValueError(msg)
        if not scale > 0:
            msg = f"`scale` must be a positive number (1 leaves the scales alone), found {scale}"
            raise ValueError(msg)
        self.mean, self.scale, self.jitter, self.generator = mean, scale, jitter, generator

    def forward(self, x: Float[Tensor, "samples units *space"]) -> Float[Tensor, "samples units *space"]:
        """`x` with noise while training, `x` itself in evaluation."""
        if not self.training:
            return x
        return noisy_shift(x, *unit_noise(x, self.mean, self.scale, self.jitter, self.generator))

    def extra_repr(self) -> str:
        """The settings, as they were given."""
        return f"mean={self.mean}, scale={self.scale}, jitter={self.jitter}"
