"""How the norm of a weight grows: what holds for any step, and what holds for plain SGD on a scale-invariant one."""

from __future__ import annotations

from jaxtyping import Float, Float64
from torch import Tensor

from truestep.core import Gram

Number = int | float | Float[Tensor, "*blocks"]


def squared_norm_after(gram: Gram) -> Float64[Tensor, "*blocks"]:
    r"""Squared norm after the step, for any rule and any weight: :math:`\|w\|^2 + 2\langle w, d\rangle + \|d\|^2`.

    Example:
        >>> import torch
        >>> from truestep import gram
        >>> w, g, d = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]])
        >>> squared_norm_after(gram(w, g, d))
        tensor(25., dtype=torch.float64)
    """
    return gram.ww + 2 * gram.wd + gram.dd


def sgd_squared_norm_after(gram: Gram, lr: Number, weight_decay: Number = 0.0) -> Float64[Tensor, "*blocks"]:
    r"""Squared norm after a plain SGD step on a scale-invariant weight, foretold from weight and gradient alone.

    .. math:: \|w'\|^2 = (1-\eta\lambda)^2\|w\|^2 + \eta^2\|g\|^2

    by Pythagoras, as :math:`\langle w, g\rangle = 0`. Exact for each step. With momentum it does not hold: the buffer
    has gradients of earlier weights in it, which are not orthogonal to this one (`squared_norm_after` holds).

    Example:
        >>> import torch
        >>> from truestep import gram
        >>> w, g, d = torch.tensor([[3.0, 0.0], [0.0, 8.0], [0.0, -4.0]])
        >>> sgd_squared_norm_after(gram(w, g, d), lr=0.5)
        tensor(25., dtype=torch.float64)
    """
    return (1 - lr * weight_decay) ** 2 * gram.ww + lr**2 * gram.gg


def gradient_size(gram: Gram) -> Float64[Tensor, "*blocks"]:
    r"""Squared norm of a scale-invariant weight's gradient at the unit sphere, :math:`G = \|g\|^2\|w\|^2`.

    Average it over steps before it goes into an equilibrium: it is noisy. In the reduction of the loss that gave g.

    Example:
        >>> import torch
        >>> from truestep import gram
        >>> w, g, d = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> gradient_size(gram(w, g, d))
        tensor(36., dtype=torch.float64)
    """
    return gram.gg * gram.ww


def growth_time(gram: Gram, lr: Number) -> Float64[Tensor, "*blocks"]:
    r"""Steps :math:`k_0` in which plain SGD without decay multiplies :math:`\|w\|^4` by 2, from where it stands.

    .. math:: k_0 = \|w\|^4 / (2\eta^2 G) = \|w\|^2 / (2\eta^2\|g\|^2)

    Example:
        >>> import torch
        >>> from truestep import gram
        >>> w, g, d = torch.tensor([[4.0, 0.0], [0.0, 0.25], [0.0, 0.0]])
        >>> growth_time(gram(w, g, d), lr=0.5)
        tensor(512., dtype=torch.float64)
    """
    return gram.ww / (2 * lr**2 * gram.gg)


def growth_law(gram: Gram, lr: Number, steps: Number) -> Float64[Tensor, "*blocks"]:
    r"""Squared norm of a scale-invariant weight after so many more steps of plain SGD without decay.

    .. math:: \|w_k\|^2 = \|w_0\|^2\sqrt{1 + k/k_0}, \qquad \eta/\|w_k\|^2 = (\eta/\|w_0\|^2)/\sqrt{1 + k/k_0}

    Holds where the gradient at the unit sphere keeps its size G and one step lengthens the weight but little: it is
    then too low by at most :math:`q e^{2q}/4e` of the truth, :math:`q = \eta^2 G/\|w_0\|^4 = 1/2k_0`. In a run that
    learns G falls, and the law foretells more growth, and more decay of the effective lr, than there is.

    Example:
        >>> import torch
        >>> from truestep import gram
        >>> w, g, d = torch.tensor([[4.0, 0.0], [0.0, 0.25], [0.0, 0.0]])
        >>> growth_law(gram(w, g, d), lr=0.5, steps=1536)
        tensor(32., dtype=torch.float64)
    """
    return gram.ww * (1 + steps / growth_time(gram, lr)) ** 0.5
