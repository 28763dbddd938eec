"""The curvature above which a step of a given learning rate diverges on a parabola: the edge of stability."""

from __future__ import annotations


def edge(
    lr: int | float,
    momentum: int | float = 0.0,
    *,
    nesterov: bool = False,
    averaged: bool = False,
    dampening: int | float = 0.0,
) -> float:
    r"""Curvature at which full-batch descent with this lr is at the edge of stability, in 1/lr.

    .. math:: \frac{2}{\eta}, \qquad \text{momentum } \frac{2(1+\mu)}{\eta}, \qquad
        \text{Nesterov } \frac{2(1+\mu)}{\eta(1+2\mu)}, \qquad
        \text{averaged } \frac{2(1+\mu)}{\eta(1-\mu)}

    On a parabola of a larger curvature the iterates grow. Dampening :math:`\tau` divides momentum's edge by
    :math:`1-\tau`. Adam's edge is the averaged one, with :math:`\mu=\beta_1` (38/lr at 0.9), for the curvature seen
    through its preconditioner; SGD's L2 penalty adds its weight decay to every eigenvalue. The theory is for the whole
    training set: a batch's sharpness is above that of the mean loss.

    Args:
        lr: Learning rate, :math:`\eta`.
        momentum: :math:`\mu`; torch's form :math:`v \leftarrow \mu v + (1-\tau)g`.
        nesterov: Nesterov momentum of `torch.optim.SGD`.
        averaged: :math:`v \leftarrow \mu v + (1-\mu) g`, as Adam has it.
        dampening: :math:`\tau`.

    Raises:
        ValueError: If lr is not positive, or Nesterov is averaged or damped.

    Example:
        >>> edge(0.5), edge(0.1, 0.5), round(edge(1e-3, 0.9, averaged=True))
        (4.0, 30.0, 38000)

    References:
        Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability, eq. 1 and
        app. B (momentum, Nesterov); Cohen et al. (2022), Adaptive gradient methods at the edge of stability, sec. 3.
    """
    if not lr > 0:
        raise ValueError(f"`lr` must be positive, found {lr}")
    if nesterov and (averaged or dampening):
        raise ValueError("`nesterov` is torch's, without dampening and not averaged; found both")
    fresh = 1.0 - momentum if averaged else 1.0 - dampening if momentum else 1.0  # of each gradient, in the momentum
    return 2 * (1 + momentum) / (lr * fresh * (1 + 2 * momentum if nesterov else 1.0))
