"""The Fisher information of single units, as sums, and the gradients at the logits that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from truestep.core import AbstractSum


@dataclass(frozen=True, slots=True)
class UnitFisher(AbstractSum):
    r"""Entries of the Fisher matrix that quasi-diagonal methods need, one row a unit, as sums over samples.

    .. math:: n F_{00} = \sum \delta_i^2, \qquad n F_{0j} = \sum \delta_i^2 a_j, \qquad n F_{jj} = \sum \delta_i^2 a_j^2

    for :math:`s = W a + b` and :math:`\delta = \partial\ell/\partial s` of one sample's own loss (reduction "none").
    The rows that one sample has in a layer (places of a convolution, words of a sequence, several uses of a shared
    layer) are taken as uncorrelated: their entries add up.

    Args:
        n: Number of samples.
        bias: :math:`n F_{00}`, of the bias itself.
        cross: :math:`n F_{0j}`, of bias and weight.
        weight: :math:`n F_{jj}`, of the weight itself.

    Example:
        >>> import torch
        >>> a, delta = torch.tensor([[2.0, 0.0], [4.0, 1.0]]), torch.tensor([[1.0], [-3.0]])
        >>> fisher = unit_fisher(a, delta, 2)
        >>> fisher.bias, fisher.cross, fisher.weight
        (tensor([10.]), tensor([[38.,  9.]]), tensor([[148.,   9.]]))
        >>> bool((unit_fisher(a[:1], delta[:1], 1) + unit_fisher(a[1:], delta[1:], 1)).weight.eq(fisher.weight).all())
        True

    References:
        Marceau-Caron and Ollivier 2016, Practical Riemannian neural networks (arXiv:1602.08007).
    """

    n: Float64[Tensor, ""]
    bias: Float[Tensor, " out"]
    cross: Float[Tensor, "out features"]
    weight: Float[Tensor, "out features"]


def unit_fisher(
    a: Float[Tensor, "*groups rows features"],
    delta: Float[Tensor, "*groups rows units"],
    n: int,
    gain: int | float = 1,
) -> UnitFisher:
    """The `UnitFisher` of the rows that a layer multiplies and the gradients at what it makes of them.

    Two matrix products, in float32 or in float64 where the rows are float64. Everywhere else our sums are float64;
    here that would double the cost of a step.

    Args:
        a: Inputs; with a leading dimension for a convolution's groups (`grouped_rows`).
        delta: Gradients of each sample's own loss at the outputs of these inputs, divided by `gain`.
        n: Number of samples that the rows come from.
        gain: The size of the batch where the loss is its mean.
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, delta.dtype), torch.float32)
    a, square = a.detach().to(dtype), (gain * delta.detach().to(dtype)).square()  # narrow formats overflow in squares
    by_unit, features = square.mT, a.shape[-1]
    return UnitFisher(
        torch.full((), n, dtype=torch.float64, device=a.device),
        square.sum(-2).reshape(-1),
        (by_unit @ a).reshape(-1, features),
        (by_unit @ a.square()).reshape(-1, features),
    )


def sampled_deltas(
    logits: Float[Tensor, "*samples classes"], generator: torch.Generator | None = None
) -> Float[Tensor, "*samples classes"]:
    r"""Gradient of the cross-entropy at the logits, for labels drawn from the model itself.

    .. math:: p - e_y, \qquad y \sim p = \operatorname{softmax}(\text{logits})

    Its square is the Fisher information in the mean over draws; each sample's own loss, reduction "none".

    Args:
        logits: Classes last.
        generator: Draws the labels; on another device than the logits its numbers are copied over.

    Example:
        >>> import torch
        >>> sampled_deltas(torch.tensor([0.25, 0.75]).log().expand(3, 2), torch.Generator().manual_seed(0))
        tensor([[ 0.2500, -0.2500],
                [-0.7500,  0.7500],
                [ 0.2500, -0.2500]])
    """
    p = _probabilities(logits)
    home = p.device if generator is None else generator.device
    waiting = torch.empty(p.shape, dtype=p.dtype, device=home).exponential_(generator=generator).to(p.device)
    drawn = (p / waiting).argmax(-1, keepdim=True)  # the first to ring; multinomial waits for the device
    return p.scatter_add(-1, drawn, -torch.ones_like(p))


def exact_deltas(logits: Float[Tensor, "*samples classes"]) -> Iterator[Float[Tensor, "*samples classes"]]:
    r"""Gradients at the logits whose squares add up to the Fisher information exactly, one for each class.

    .. math:: \sqrt{p_c}\,(p - e_c), \qquad \sum_c p_c (p - e_c)(p - e_c)^\top = \operatorname{diag}(p) - p p^\top

    Each sample's own cross-entropy, reduction "none".

    Example:
        >>> import torch
        >>> p = torch.tensor([[0.25, 0.75]])
        >>> sum(delta.mT @ delta for delta in exact_deltas(p.log()))
        tensor([[ 0.1875, -0.1875],
                [-0.1875,  0.1875]])
    """
    p = _probabilities(logits)
    for label in range(p.shape[-1]):
        delta = p.clone()
        delta[..., label] -= 1
        yield delta * p[..., label : label + 1].sqrt()


def _probabilities(logits: Tensor) -> Tensor:
    logits = logits.detach()
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
