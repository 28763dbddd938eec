"""What a step means for a weight whose norm does not matter: functions of a Gram and of what was asked."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from truestep.core import Gram


def angular_update(gram: Gram) -> Float64[Tensor, "*blocks"]:
    r"""Angle between the weights before and after a step, in radians; nan for a zero block.

    .. math:: \theta = \operatorname{atan2}(\|d_\perp\|, \|w\| + \langle w, d\rangle / \|w\|)

    By atan2, since the arccosine of a float32 cosine loses every angle below 3e-4. Holds for any block,
    scale invariant or not, and for any loss reduction: only weights enter.

    Example:
        >>> from truestep import gram
        >>> w, g, d = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
        >>> angular_update(gram(w, g, d))
        tensor(0.7854, dtype=torch.float64)
    """
    norm = gram.ww.sqrt()  # a zero block has no direction: 0/0 below is the nan promised above
    radial = gram.wd / norm
    tangential = (gram.dd - radial**2).clamp_min(0.0).sqrt()
    return torch.atan2(tangential, norm + radial)


def relative_update(gram: Gram) -> Float64[Tensor, "*blocks"]:
    r"""Length of the step in units of the weight's norm, :math:`\|d\| / \|w\|`; inf or nan for a zero block.

    Example:
        >>> from truestep import gram
        >>> w, g, d = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.3, 0.4]])
        >>> relative_update(gram(w, g, d))
        tensor(0.1000, dtype=torch.float64)
    """
    return (gram.dd / gram.ww).sqrt()


def effective_lr(gram: Gram, lr: float | Float[Tensor, "*blocks"]) -> Float64[Tensor, "*blocks"]:
    r"""Learning rate of the direction :math:`w/\|w\|` under SGD: :math:`\eta / \|w\|^2`, in 1/(weight unit)².

    For a scale-invariant block, SGD on w with lr :math:`\eta` moves the direction as SGD on the unit sphere does
    with this lr and the gradient taken at the unit sphere (van Laarhoven, 2017, eq. 5; Hoffer et al., 2018). The
    lecture that calls :math:`\eta / \|w\|` the effective lr multiplies it with the gradient at w: see the glossary.
    Assumes the gradient has the reduction that the lr was chosen for; momentum and Adam have forms of their own.

    Example:
        >>> from truestep import gram
        >>> w = torch.tensor([3.0, 4.0])
        >>> effective_lr(gram(w, w, w), 0.1)
        tensor(0.0040, dtype=torch.float64)
    """
    return lr / gram.ww


def intrinsic_lr(
    lr: float | Float[Tensor, "*blocks"], weight_decay: float | Float[Tensor, "*blocks"]
) -> float | Float[Tensor, "*blocks"]:
    r"""Product :math:`\eta\lambda`, per step: the speed of learning of scale-invariant weights in equilibrium.

    Its inverse is the number of steps in which the direction forgets where it was (Li, Lyu & Arora, 2020, sec. 3).
    With momentum the coupled rule has :math:`\eta\lambda / (1-\mu)`.

    Example:
        >>> intrinsic_lr(0.1, 5e-3)
        0.0005
    """
    return lr * weight_decay
