r"""A scale-invariant weight under noise and decay: the stationary second moments of its random walk.

The model: gradients are independent, isotropic and orthogonal to the weight. Then the expectations of
:math:`\|w\|^2`, :math:`\langle w, v\rangle` and :math:`\|v\|^2` (v the momentum buffer) follow a linear recursion, and
its fixed point gives two numbers without a unit, from which the rest follows:

- the bend :math:`1 - \cos\theta`, with :math:`\theta` the angle of one step;
- the kick :math:`\eta^2\,\mathbb{E}\|g\|^2 / \|w\|^2`: what one gradient moves, over what it moves it from.
"""

from __future__ import annotations

from math import comb, pi

import torch
from jaxtyping import Float64
from torch import Tensor

Moments = tuple[Float64[Tensor, "..."], Float64[Tensor, "..."]]
_TERMS = 60  # of the arcsine's series; the correlations of Lion at its defaults need 4


def coupled(x: Float64[Tensor, "..."], mu: Float64[Tensor, "..."], *, nesterov: bool = False) -> Moments:
    r"""Bend and kick where decay is added to the gradient, with :math:`x=\eta\lambda`.

    .. math:: 1-\cos\theta = \frac{x}{1+\mu}, \qquad
        \frac{\eta^2 G}{\|w\|^4} = x\,(1-\mu)\Big(2-\frac{x}{1+\mu}\Big)

    Nesterov moves by :math:`h + \mu v` with :math:`h = g + \lambda w`; to first order in x its bend is
    :math:`1+2\mu-2\mu^3` times this one, and its kick the same.
    """
    if not nesterov:
        bend = x / (1 + mu)
        return bend, x * (1 - mu) * (2 - bend)
    second = 1 + 2 * mu
    below = 1 + mu + mu * second * x
    bend = x * (1 + 2 * mu - 2 * mu**3 + mu * (1 + mu) * second * x) / below
    return bend, x * (1 - mu + mu * x) * (2 + 2 * mu - second * x) / below


def decoupled(x: Float64[Tensor, "..."], mu: Float64[Tensor, "..."], *, nesterov: bool = False) -> Moments:
    r"""Bend and kick where decay multiplies the weight by :math:`a = 1-\eta\lambda` beside the step; x is :math:`1-a`.

    .. math:: \cos\theta = \frac{a+\mu}{1+a\mu}, \qquad
        \frac{\eta^2 G}{\|w\|^4} = \frac{(1-a^2)(1-\mu^2)(1-a\mu)}{1+a\mu}
    """
    a = 1 - x
    lost = x * (1 + a)  # 1 - a², without its cancellation
    if not nesterov:
        return x * (1 - mu) / (1 + a * mu), lost * (1 - mu**2) * (1 - a * mu) / (1 + a * mu)
    below = 1 + 2 * mu - 2 * mu**3 - a * mu * (1 - 2 * mu**2)
    bend = x * (1 - mu) * (1 + 3 * mu + 2 * mu**2 - mu**3 - a * mu * (1 + mu) ** 2) / below
    return bend, lost * (1 - mu**2) * (1 - a * mu) / below


def lion(x: Float64[Tensor, "..."], beta1: Float64[Tensor, "..."], beta2: Float64[Tensor, "..."]) -> Moments:
    r"""Bend and kick :math:`\eta^2 d / \|w\|^2` of Lion; its gradients are taken to be Gaussian.

    The signs of two Gaussians with correlation :math:`\rho` have correlation :math:`\tfrac{2}{\pi}\arcsin\rho`, and
    the averages that Lion takes the sign of have :math:`\rho_k = \rho_1\beta_2^{k-1}`, so with :math:`a=1-x`

    .. math:: \frac{\eta^2 d}{\|w\|^2} = (1-a^2) \Big/ \Big(1 + \frac{4}{\pi}\sum_{k\ge1} a^k \arcsin\rho_k\Big)
    """
    a = 1 - x
    spread = beta1**2 * (1 - beta2) / (1 + beta2)
    rho = (beta1 * (1 - beta1) * (1 - beta2) + spread * beta2) / ((1 - beta1) ** 2 + spread)
    odd = [2 * n + 1 for n in range(_TERMS)]
    terms = [comb(k - 1, k // 2) / 2 ** (k - 1) / k * rho**k * a / (1 - a * beta2**k) for k in odd]
    kick = x * (1 + a) / (1 + 4 / pi * torch.stack(terms).sum(0))
    return (kick - x**2) / (2 * a), kick


def angle_of(bend: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
    """The angle in radians whose cosine is `1 - bend`, exact also where it is small."""
    return 2 * (bend / 2).sqrt().asin()
