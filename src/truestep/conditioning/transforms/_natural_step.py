"""Natural gradient of single units, from the entries of their Fisher matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

DEAD = 1e-10  # conditional variance, in units of the weight's own Fisher entry, below which an input says nothing new
ROUNDING = 16  # ... and in units of the format's rounding: narrower formats cannot tell smaller ones from 0


def quasi_diagonal(
    weight: Float[Tensor, "out features"],
    bias: Float[Tensor, " out"],
    f00: Float[Tensor, " out"],
    f0j: Float[Tensor, "out features"],
    fjj: Float[Tensor, "out features"],
    damping: int | float = 0.0,
    *,
    room: Float[Tensor, "out features"] | None = None,
    scratch: Float[Tensor, "out features"] | None = None,
) -> tuple[Float[Tensor, "out features"], Float[Tensor, " out"]]:
    r"""Natural gradient of each unit that knows its Fisher matrix on the diagonal and between bias and weight only.

    .. math:: \Delta w_j = \frac{g_j - g_0 F_{0j}/F_{00}}{F_{jj} - F_{0j}^2/F_{00}}, \qquad
        \Delta b = \frac{g_0}{F_{00}} - \sum_j \frac{F_{0j}}{F_{00}}\,\Delta w_j

    A descent direction. The function a network is after a step does not change when the values of single units are
    shifted and scaled (logistic against tanh), with damping 0; lr then is a rate of its own, unlike SGD's.

    The denominator is what of an input's variance the bias does not account for, 0 for an input that never changes
    (a constant pixel, a dead ReLU): its weight is left where it is. So is a unit that no gradient has reached, and with
    damping a layer: what would be divided by is 0, or so small that the format cannot hold its inverse.

    Args:
        weight: Gradient of the weight, of the mean loss (reduction "mean").
        bias: Gradient of the bias.
        f00: Fisher entry of the bias; entries are means over samples, of each sample's own loss (`UnitFisher`).
        f0j: Fisher entry of bias and weight.
        fjj: Fisher entry of the weight.
        damping: Added to `f00` and `fjj` in units of their mean over the layer; any breaks the invariance a little.
        room: Where the first result is written, if given: fresh memory costs more than the arithmetic.
        scratch: Memory to work in, of the entries' format.

    Returns:
        What takes the place of the weight's and the bias's gradient.

    Example:
        >>> import torch
        >>> g, one = torch.tensor([[6.0, 7.0]]), torch.ones(1)
        >>> quasi_diagonal(g, 2 * one, one, torch.tensor([[2.0, 3.0]]), torch.tensor([[8.0, 9.0]]))
        (tensor([[0.5000, 0.0000]]), tensor([1.]))

    References:
        Ollivier 2015, Riemannian metrics for neural networks I (arXiv:1303.0818); Marceau-Caron and Ollivier
        2016, Practical Riemannian neural networks (arXiv:1602.08007).
    """
    added = _added(damping, f00, fjj) if damping else 0.0
    inverse = (f00 + added).reciprocal_()
    inverse.masked_fill_(inverse == torch.inf, 0)  # no gradient has reached these units: ratio and step are 0
    explained = torch.mul(f0j, inverse.sqrt()[:, None], out=scratch)
    variance = torch.addcmul(fjj, explained, explained, value=-1, out=scratch)
    if damping:
        variance.relu_().add_(added)
    else:
        least = max(DEAD, ROUNDING * torch.finfo(fjj.dtype).eps)
        tiny = torch.finfo(fjj.dtype).tiny
        torch.threshold_(variance.add_(fjj, alpha=-least), tiny, torch.inf)  # a mask takes many times as long
        variance.add_(fjj, alpha=least)
    correction = bias * inverse
    step = torch.addcmul(weight, correction[:, None], f0j, value=-1, out=room).div_(variance)
    return step, correction - inverse * torch.linalg.vecdot(f0j, step)


def diagonal(
    weight: Float[Tensor, "out features"], fjj: Float[Tensor, "out features"], damping: int | float = 0.0
) -> Float[Tensor, "out features"]:
    r"""What `quasi_diagonal` is for a layer without bias, :math:`g_j/F_{jj}`; invariant to scales, not to shifts.

    Example:
        >>> import torch
        >>> diagonal(torch.tensor([[6.0, 7.0]]), torch.tensor([[2.0, 0.0]]))
        tensor([[3., 0.]])
    """
    scale = fjj + _added(damping, fjj) if damping else fjj.clone()
    return weight / scale.masked_fill_(scale < torch.finfo(fjj.dtype).tiny, torch.inf)


def _added(damping: int | float, *entries: Tensor) -> Tensor:
    """Damping of a layer; endless, so that there is no step, where its entries are 0 or their squares underflowed."""
    added = damping * torch.stack([x.sum() for x in entries]).sum() / max(sum(x.numel() for x in entries), 1)
    return torch.where(added < torch.finfo(added.dtype).tiny, torch.inf, added)
