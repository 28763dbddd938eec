"""Each loss divided by itself: the sum of the losses' logarithms."""

from __future__ import annotations

import torch

from truestep.multitask._rule import AbstractRule, PerTask, Readings


def unit_weights(losses: PerTask) -> PerTask:
    """1/L where that can be written; 0 where a loss has no logarithm (zero, negative, infinite) or is nan."""
    inverse = losses.reciprocal()
    return torch.where((losses > 0) & inverse.isfinite(), inverse, 0.0)


class UnitNorm(AbstractRule):
    r"""Each loss over its own value, :math:`w_i = 1/L_i`: descends on :math:`\sum_i \log L_i`, in any units.

    .. math:: \sum_i w_i \nabla L_i = \sum_i \frac{\nabla L_i}{L_i} = \nabla \sum_i \log L_i

    Any reduction: a factor on a loss cancels. Several methods are this one gradient, at the losses of the moment:

    - the log loss :math:`\sum_i \log L_i`, and `truestep.loss.unit_loss` summed over the tasks;
    - IMTL-L, :math:`\sum_i e^{s_i} L_i - s_i`, at its optimum :math:`s_i = -\log L_i`;
    - twice uncertainty weighting, :math:`\sum_i \tfrac12 e^{-s_i} L_i + \tfrac12 s_i`, at its optimum
      :math:`s_i = \log L_i`;
    - the geometric loss strategy, :math:`M = (\prod_i L_i)^{1/T}`, times :math:`T/M`.

    They differ in how soon the weights get there, and in the common factor: that of the geometric loss shrinks with
    the losses. A Balancer's `normalize` replaces that factor ("budget", "sum") or leaves it ("none").

    The common factor matters, for nothing here makes the gradient vanish at a minimum where a loss is zero. On
    :math:`L = h x^2 / 2` plain gradient descent becomes Boole's map :math:`x \leftarrow x - 2\eta/x` for every h,
    which converges for no lr. With an irreducible loss, :math:`L = c + h x^2 / 2`, the minimum is stable where
    :math:`\eta\,\lambda_{\max} < 2c` (uncertainty weighting: 4c), :math:`\lambda_{\max}` being the curvature of the
    unweighted loss. So give it an lr that decays.

    A loss of exactly zero gets weight 0 rather than infinity, and a negative or infinite one as well where no
    Balancer has refused it: such a loss has no logarithm.

    Example:
        >>> w = torch.tensor([3.0, -2.0], requires_grad=True)
        >>> for unit in (1.0, 1e-6):  # the gradient of log(w**2) is 2/w, in any unit
        ...     loss = UnitNorm()(w**2 * torch.tensor([1.0, unit]))
        ...     loss.item(), torch.autograd.grad(loss, w)[0]
        (2.0, tensor([ 0.6667, -1.0000]))
        (2.0, tensor([ 0.6667, -1.0000]))

    References:
        "The case for unit-normalized loss (with back-propagation)". Liu et al., "Towards Impartial Multi-task
        Learning", ICLR 2021 (IMTL-L). Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty", CVPR 2018.
        Chennupati et al., "MultiNet++", CVPR Workshops 2019 (geometric loss strategy).
    """

    def weigh(self, seen: Readings) -> PerTask:
        """One over each loss."""
        return unit_weights(seen.losses)
