"""GradNorm: weights under which tasks train at similar rates, in closed form."""

from __future__ import annotations

import math
from typing import Final, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truestep.core import warn
from truestep.multitask._rule import AbstractRule, PerTask, Readings, is_everyone, kept, mean_over
from truestep.multitask._smoothed import check_smoothing, smoothed, unknown

Number = int | float
Solve = Literal["direct", "sign", "gradient"]
Active = Bool[Tensor, " tasks"]

_SMOOTHING: Final = 0.9
_LR: Final = 0.025  # the paper's, for Adam on weights of mean 1
_BETAS: Final = (0.9, 0.999)
_FLOOR: Final = 1e-8  # least weight of "sign" and "gradient", as a share of the mean weight at the start


def gradnorm_weights(norms: Float[Tensor, " tasks"], ratios: Float[Tensor, " tasks"], alpha: Number) -> PerTask:
    r"""Weights, with sum T, at which GradNorm's weighted norms stand in the proportions that it asks for.

    .. math:: w_i \propto \frac{r_i^\alpha}{g_i}, \qquad
        r_i = \frac{L_i(t)/L_i(0)}{\tfrac1T \sum_j L_j(t)/L_j(0)}, \qquad \sum_i w_i = T

    A slow task has :math:`r_i > 1` and gets the larger gradient :math:`w_i g_i`. Any reduction: a factor on one loss
    cancels in :math:`w_i g_i`.

    This is a zero of `gradnorm_gradient` only where the mean of :math:`r_i^\alpha` is 1: for alpha 0 and 1, or equal
    rates. Elsewhere that gradient has one sign for all tasks here, and in a whole zone around.

    Args:
        norms: :math:`g_i` > 0, norms of the gradients of the unweighted losses.
        ratios: :math:`L_i(t)/L_i(0)` of the unweighted losses; a task where it is nan counts with :math:`r_i = 1` and
            not in the mean. Not read for alpha = 0.
        alpha: :math:`\alpha` ≥ 0, the pull towards equal rates; 0 makes equal norms :math:`w_i g_i`.

    Example:
        Norms 1 and 10, and the second task has kept 0.9 of its loss where the first has kept 0.3:

        >>> w = gradnorm_weights(torch.tensor([1.0, 10.0]), torch.tensor([0.3, 0.9]), alpha=1.0)
        >>> w
        tensor([1.5385, 0.4615], dtype=torch.float64)
        >>> w * torch.tensor([1.0, 10.0])  # 1 : 3
        tensor([1.5385, 4.6154], dtype=torch.float64)

    References:
        Chen, Badrinarayanan, Lee, Rabinovich, "GradNorm", ICML 2018, section 3.
    """
    every = torch.ones_like(norms, dtype=torch.bool)
    return _solved(norms.double().log(), _log_pull(ratios.double(), alpha, every), every)


def gradnorm_gradient(
    norms: Float[Tensor, " tasks"], weights: Float[Tensor, " tasks"], ratios: Float[Tensor, " tasks"], alpha: Number
) -> PerTask:
    r"""Gradient of GradNorm's own loss by the weights: what the paper gets from a backward through a backward.

    .. math:: \frac{\partial}{\partial w_i} \sum_j \bigl| G_j - \bar G\, r_j^\alpha \bigr|
        = \operatorname{sign}\bigl( G_i - \bar G\, r_i^\alpha \bigr)\, g_i, \qquad G_i = w_i g_i

    with the target :math:`\bar G\, r_i^\alpha` held constant, as in the paper, and :math:`\bar G` the mean of
    :math:`G`. The arguments are those of `gradnorm_weights`, and `weights` the :math:`w_i` > 0 so far.

    The targets sum to more than the norms do where the mean of :math:`r_i^\alpha` is above 1 (alpha > 1), and to less
    where it is below (alpha < 1). So all norms can lie on one side of their targets, far from the proportions that
    `gradnorm_weights` has: there this gradient moves all weights one way, and with their sum restored it stands still
    (a step by the sign) or drifts towards equal weights (Adam's step).

    Example:
        >>> one, ratios = torch.ones(2), torch.tensor([0.1, 1.0])
        >>> gradnorm_gradient(one, one, ratios, alpha=1.5)  # descent lowers the fast task's weight, raises the other
        tensor([ 1., -1.], dtype=torch.float64)

    References:
        Chen, Badrinarayanan, Lee, Rabinovich, "GradNorm", ICML 2018, eq. 2 and algorithm 1.
    """
    every = torch.ones_like(norms, dtype=torch.bool)
    g = norms.double()
    return _side(weights.double() * g, _log_pull(ratios.double(), alpha, every), every) * g


def _log_pull(ratios: PerTask, alpha: Number, active: Active) -> PerTask:
    """The logarithm of r**alpha; 0 for a task without a ratio."""
    if alpha == 0:
        return torch.zeros_like(ratios)
    among = ratios if is_everyone(active) else torch.where(active, ratios, torch.nan)
    r = ratios / among.nanmean()
    return torch.nan_to_num(alpha * r.log(), nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def _solved(log_norms: PerTask, log_pull: PerTask, active: Active) -> PerTask:
    """Weights of the active tasks, with their number as sum; by logarithms, so that no spread of norms overflows."""
    score = log_pull - log_norms
    if is_everyone(active):
        return score.softmax(0) * len(score)
    return torch.where(active, score, -torch.inf).softmax(0) * active.sum()


def _side(weighted: PerTask, log_pull: PerTask, active: Active) -> PerTask:
    """Sign of a weighted norm less its target: 1 where a weight is too large."""
    return torch.sign(weighted - mean_over(active, weighted) * log_pull.exp())


class GradNorm(AbstractRule):
    r"""Weights that let the tasks train at similar rates, measured by how much of its first loss each has kept.

    .. math:: w_i g_i \propto r_i^\alpha

    See `gradnorm_weights` for the symbols. Three ways to get there, none with a backward through a backward:

    - "direct" solves for the weights at each update, from a running average of :math:`\log g_i`. No second lr.
    - "sign" moves each weight by a factor, :math:`w_i \leftarrow w_i\, e^{\mp\text{lr}}`, down where :math:`w_i g_i` is
      above its target and up where it is below. Positive, free of scale, and within a few lr of the solution after
      log(spread)/lr updates. Its targets sum to what the norms sum to, so that it ends at the direct solution.
    - "gradient" is the paper's: Adam on the weights, with the gradient of `gradnorm_gradient`, then their sum restored.
      Unless alpha is 0 or 1 it stops short of the proportions above: see there. A weight is known to about lr of the
      mean weight, so that norms which spread more than 1/lr are not balanced by it.

    "sign" and "gradient" go on from the weights of their first update, kept at mean 1 whatever the Balancer's
    `normalize` makes of them: a common factor on weights or norms changes nothing. Tasks that are not active are in no
    mean, and their state waits for them; a task without L(0) counts with :math:`r_i = 1` and is not in r's mean.

    Args:
        alpha: Finite, not negative. The paper used 1.5 (NYUv2) and 0.12 (its toy). 0 asks for equal norms
            :math:`w_i g_i`, needs no L(0), and takes losses of any sign.
        solve: "direct", "sign" or "gradient".
        smoothing: For "direct": the share of the average kept at an update; 0 sees the newest norms alone.
        lr: For "sign" and "gradient".

    Raises:
        ValueError: An argument outside of what is said above, `smoothing` not in [0, 1), or `lr` not positive.

    Note:
        Deviation: "direct" and "sign" are ours, and end at the proportions that the paper's targets have. Of
        "gradient": Adam has no eps, which would tie the weights to the unit of the losses, and each task counts its
        own updates. No weight of "sign" and "gradient" falls below 1e-8 of the mean: nothing in the paper keeps them
        positive. tests/multitask/test_gradnorm.py compares "gradient" with torch's Adam on the double backward, and
        shows where it stops.

    Example:
        >>> from truestep.multitask import Readings
        >>> rule = GradNorm(alpha=1.0)
        >>> rule.start(("depth", "pose"))
        >>> norms, ratios, one = torch.tensor([[1.0, 10.0], [0.3, 0.9], [1.0, 1.0]]).double()
        >>> rule.weigh(Readings(losses=one, ratios=ratios, norms=norms, active=one.bool(), weights=one))
        tensor([1.5385, 0.4615], dtype=torch.float64)

    References:
        Chen, Badrinarayanan, Lee, Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
        Multitask Networks", ICML 2018.
    """

    reads = "norms"
    _log_norms: Tensor
    _weights: Tensor
    _first: Tensor
    _second: Tensor
    _updates: Tensor

    def __init__(
        self, alpha: Number, solve: Solve = "direct", *, smoothing: Number = _SMOOTHING, lr: Number = _LR
    ) -> None:
        super().__init__()
        _check(alpha, solve, smoothing, lr)
        self._alpha, self._solve, self._smoothing, self._lr = alpha, solve, smoothing, lr
        self.positive = alpha > 0

    def _make(self, tasks: tuple[str, ...]) -> None:
        if self._solve == "direct":
            self.register_buffer("_log_norms", unknown(tasks))
            return
        self.register_buffer("_weights", unknown(tasks))
        if self._solve == "gradient":
            for name in ("_first", "_second", "_updates"):
                self.register_buffer(name, torch.zeros(len(tasks), dtype=torch.float64))

    def weigh(self, seen: Readings) -> PerTask:
        """Weights for the norms and ratios seen."""
        pull = _log_pull(seen.ratios, self._alpha, seen.active)
        if self._solve == "direct":
            self._log_norms.copy_(smoothed(seen.active, seen.norms.log(), self._log_norms, self._smoothing))
            return _solved(self._log_norms, pull, seen.active)
        start = seen.weights / seen.weights.mean()
        old = torch.where(self._weights.isnan(), start, self._weights)
        if self._solve == "sign":
            pull = pull - mean_over(seen.active, pull.exp()).log()  # else most of it is a zone where nothing moves
            new = old * torch.exp(-self._lr * _side(old * seen.norms, pull, seen.active))
        else:
            gradient = _side(old * seen.norms, pull, seen.active) * seen.norms
            new = old - self._lr * self._adam(gradient, seen.active)
        new = new.clamp_min(_FLOOR)
        new = new * (mean_over(seen.active, old) / mean_over(seen.active, new))
        self._weights.copy_(kept(seen.active, new, old))
        return self._weights.clone()

    def _adam(self, gradient: PerTask, active: Active) -> PerTask:
        """Adam's direction, without eps; 0 where there never was a gradient."""
        (beta1, beta2), first, second = _BETAS, self._first, self._second
        self._updates.add_(active)
        first.copy_(kept(active, beta1 * first + (1 - beta1) * gradient, first))
        second.copy_(kept(active, beta2 * second + (1 - beta2) * gradient.square(), second))
        mean = first / (1 - beta1**self._updates)
        square = second / (1 - beta2**self._updates)
        return torch.where(second > 0, mean / square.sqrt(), 0.0)


def _check(alpha: Number, solve: str, smoothing: Number, lr: Number) -> None:
    if not (math.isfinite(alpha) and alpha >= 0):
        msg = f"`alpha` must be finite and at least 0; found {alpha!r} (0: equal norms; the paper: 0.12 and 1.5)"
        raise ValueError(msg)
    if solve not in get_args(Solve):
        msg = f"`solve` must be one of {', '.join(get_args(Solve))}; found {solve!r}"
        raise ValueError(msg)
    check_smoothing(smoothing)
    if not (math.isfinite(lr) and lr > 0):
        msg = f"`lr` must be positive and finite; found {lr!r}"
        raise ValueError(msg)
    name, value, default = ("lr", lr, _LR) if solve == "direct" else ("smoothing", smoothing, _SMOOTHING)
    if value != default:
        warn(f'`{name}`={value!r} is not used by GradNorm(solve="{solve}")', stacklevel=4)
