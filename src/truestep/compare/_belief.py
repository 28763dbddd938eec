"""How much faster AdaBelief steps than Adam at the same lr, in closed form: by the gradient's noise, and by time."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

Real = int | float


def adabelief_speed(snr: Float[Tensor, "*shape"] | Real, beta1: Real = 0.9) -> Float64[Tensor, "*shape"]:
    r"""AdaBelief's step over Adam's where a gradient is a constant :math:`\mu` and noise :math:`\sigma`; no unit.

    .. math:: c(s) = \sqrt{\frac{(1 + s^2)(1 + \beta_1)}{2 \beta_1^2}}, \qquad s = \mu / \sigma

    Both step along the same average m of the gradients. Adam divides it by the root of
    :math:`E[g^2] = \sigma^2 (1 + s^2)`, AdaBelief by that of
    :math:`E[(g - m)^2] = 2 \beta_1^2 \sigma^2 / (1 + \beta_1)`. So without a mean gradient AdaBelief is Adam at 1.08
    times its lr, and ten times takes a mean that is 9.2 times the noise.

    The noise is independent from step to step, the steps so many that both averages have settled (some
    :math:`1 / (1 - \beta_2)`), and :math:`\epsilon` is too small to matter. The loss's reduction (mean or sum) and any
    other factor of it drop out.

    Args:
        snr: :math:`s`, the gradient's mean over its standard deviation, in one coordinate; its sign does not matter.
        beta1: Of both optimizers, above 0 and below 1.

    Raises:
        ValueError: If `beta1` is out of range.

    Example:
        >>> import torch
        >>> adabelief_speed(torch.tensor([0.0, 1.0, 2.0]))
        tensor([1.0830, 1.5316, 2.4216], dtype=torch.float64)

    References:
        The rules: Kingma and Ba, "Adam", ICLR 2015, algorithm 1; Zhuang et al., "AdaBelief Optimizer", NeurIPS 2020,
        algorithm 2. The factor is worked out here; a test holds it against both optimizers.
    """
    _check(beta1=beta1)
    return ((1 + torch.as_tensor(snr).double() ** 2) * (1 + beta1) / (2 * beta1**2)).sqrt()


def adabelief_growth(
    step: Int[Tensor, "*shape"] | int, beta1: Real = 0.9, beta2: Real = 0.999
) -> Float64[Tensor, "*shape"]:
    r"""AdaBelief's step over Adam's at step t = 1, 2, ... under a gradient that never changes; no unit.

    .. math:: c(t) = \Bigl[\frac{1 - \beta_2}{1 - \beta_2^t} \sum_{i=1}^{t} \beta_2^{t-i} \beta_1^{2i}\Bigr]^{-1/2}

    The distance of such a gradient from its average, which starts at 0, is :math:`\beta_1^i g` at step i. What
    AdaBelief divides by is soon nothing but the memory of the first steps, and its step grows without bound as
    :math:`\beta_2^{-t/2}` (where :math:`\beta_2 > \beta_1^2`), until :math:`\epsilon` ends it, or noise: see
    `adabelief_speed`. Adam's step is lr throughout.

    Args:
        step: :math:`t`, the number of the step, from 1.
        beta1: Of both optimizers, above 0 and below 1.
        beta2: Of both optimizers, above 0 and below 1.

    Raises:
        ValueError: If `beta1`, `beta2` or `step` is out of range.

    Example:
        >>> import torch
        >>> adabelief_growth(torch.tensor([1, 10, 100, 1000]))
        tensor([ 1.1111,  1.6354,  4.9551, 20.0312], dtype=torch.float64)

    References:
        As for `adabelief_speed`.
    """
    _check(beta1=beta1, beta2=beta2)
    t = torch.as_tensor(step).double()
    if (t < 1).any():
        raise ValueError(f"`step` must be 1 or more, found {t.min().item():.0f}; the first step is number 1")
    low, high = sorted((beta1**2, beta2))
    log_ratio = torch.tensor(low / high, dtype=torch.float64).log()  # expm1: the two may be nearly equal
    terms = t if low == high else torch.expm1(t * log_ratio) / torch.expm1(log_ratio)
    surprise = beta1**2 * high ** (t - 1) * terms
    return ((1 - beta2) / (1 - beta2**t) * surprise).rsqrt()


def _check(**betas: Real) -> None:
    for name, beta in betas.items():
        if not 0 < beta < 1:
            raise ValueError(f"`{name}` must be above 0 and below 1, found {beta}")
