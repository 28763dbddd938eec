"""Uncertainty weighting: each task's loss over the variance that it leaves unexplained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, get_args

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from truestep.core import warn
from truestep.multitask._rule import AbstractRule, PerTask, Readings, kept
from truestep.multitask._smoothed import check_smoothing, smoothed, unknown

Number = int | float
Kind = Literal["regression", "classification"]
Solve = Literal["gradient", "direct"]

_LR: Final = 1e-3
_SMOOTHING: Final = 0.9
_BETAS: Final = (0.9, 0.999)  # torch.optim.Adam's
_EPS: Final = 1e-8


def log_variances(losses: PerTask, classification: Bool[Tensor, " tasks"]) -> PerTask:
    r"""The log variances :math:`s_i` at which uncertainty weighting has its minimum, for these losses.

    .. math:: s_i = \log L_i \text{ (regression)}, \qquad s_i = \log 2 L_i \text{ (classification)}

    Either way the weight is :math:`1/(2 L_i)` and the minimum :math:`\tfrac12 (1 + s_i)`.

    Example:
        >>> log_variances(torch.tensor([1.0, 0.5]).double(), torch.tensor([False, True]))
        tensor([0., 0.], dtype=torch.float64)
    """
    return torch.where(classification, 2.0 * losses, losses).log()


class UncertaintyWeighting(AbstractRule):
    r"""Each task has a log variance s, and its loss counts by the inverse variance.

    .. math:: \sum_i a_i e^{-s_i} L_i + \tfrac12 s_i, \qquad w_i = a_i e^{-s_i}, \qquad
        a_i = \tfrac12 \text{ (regression)},\ 1 \text{ (classification)}

    with :math:`s_i = \log\sigma_i^2` and :math:`L_i` the squared error or the cross-entropy of task i. Two ways:

    - "gradient" moves s by an Adam of its own, with the gradient :math:`\tfrac12 - w_i L_i`. It is what a parameter
      `log_var` in torch.optim.Adam does, weights and value step for step (tests/multitask/test_uncertainty_weighting.py
      has it against TorchJD's UW). But s is no parameter: it cannot be left out of the optimizer, weight decay cannot
      pull it to equal weights, and clipping the model's gradients does not touch it.
    - "direct" puts s at its optimum for a running average of the loss: :math:`s = \log \bar L`, for classification
      :math:`\log 2\bar L`; :math:`w = 1/(2\bar L)`, which is `UnitNorm`'s direction. There is no second lr.

    What to expect:

    - **A negative total is normal.** At the optimum a task adds :math:`\tfrac12 (1 + s_i)`, for regression
      :math:`\tfrac12 (1 + \log L_i)`: below zero once :math:`L_i < 1/e`. `penalty` is the part :math:`\sum s_i / 2`.
    - **Weights move at the pace of lr.** Adam moves s by about lr a step: losses 1e4 apart (9.2 in s) need more than
      9.2/lr steps, 9200 at lr 1e-3. A run that is shorter ends with the weights half way. "direct" does not wait.
    - **Weights stay below 1/(2c)** where c is what remains of the loss; if nothing remains they grow without end. Plain
      gradient descent at the optimal s is stable where :math:`\eta\,\lambda_{\max} < 4c`, with :math:`\lambda_{\max}`
      the curvature of the unweighted loss. Under Adam a common factor cancels, and the weights' ratios alone act.
    - **The reduction is part of the likelihood.** L is the mean over terms of one Gaussian (or softmax) each. The sum
      of n terms under one s makes :math:`\sigma^2` larger by n: the optimum has the same direction, the weight
      1/n of the mean's, but s starts further off, and "gradient" needs :math:`\log(n)/\text{lr}` steps more.

    Args:
        kinds: "regression" or "classification" for each task; all regression where none are given.
        lr: For "gradient": Adam's, on s.
        solve: "gradient" or "direct".
        smoothing: For "direct": the share of the average kept at an update; 0 sees the newest losses alone.

    Raises:
        ValueError: A kind or `solve` is not one of those, `lr` is not positive, `smoothing` not in [0, 1), or (when the
            tasks are known) `kinds` does not name each of them.

    Note:
        Deviation: the paper has s among the network's parameters and its optimizer; "direct" is ours. With a Balancer,
        `normalize` other than "none" replaces the common factor of the weights, and s still follows its own equation.
        A loss of exactly zero gives no information under "direct" and leaves the average as it is.

    Example:
        >>> rule = UncertaintyWeighting({"0": "regression", "1": "classification"}, solve="direct")
        >>> rule(torch.tensor([100.0, 0.5]))  # each weighted loss is 1/2; half of log 100 is the penalty
        tensor(3.3026)
        >>> rule.log_variance  # log 100 and log(2 * 0.5)
        tensor([4.6052, 0.0000], dtype=torch.float64)

    References:
        Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
        CVPR 2018, arXiv 1705.07115: eq. 7 (two regressions), eq. 10 (regression and classification), s in section 3.2.
    """

    _classification: Tensor
    _s: Tensor
    _used: Tensor  # s of the latest weights
    _mean: Tensor
    _square: Tensor
    _updates: Tensor
    _losses: Tensor

    def __init__(
        self,
        kinds: Mapping[str, Kind] | None = None,
        *,
        lr: Number = _LR,
        solve: Solve = "gradient",
        smoothing: Number = _SMOOTHING,
    ) -> None:
        super().__init__()
        _check(kinds or {}, lr, solve, smoothing)
        self._kinds = None if kinds is None else dict(kinds)
        self._lr, self._solve, self._smoothing = lr, solve, smoothing

    def _make(self, tasks: tuple[str, ...]) -> None:
        kinds = dict.fromkeys(tasks, "regression") if self._kinds is None else self._kinds
        if set(kinds) != set(tasks):
            msg = f"`kinds` must name each task once: {', '.join(tasks)}; found {', '.join(kinds)}"
            raise ValueError(msg)
        classification = torch.tensor([kinds[task] == "classification" for task in tasks], dtype=torch.float64)
        self.register_buffer("_classification", classification)
        self.register_buffer("_s", torch.zeros(len(tasks), dtype=torch.float64))
        self.register_buffer("_used", torch.zeros(len(tasks), dtype=torch.float64))
        if self._solve == "direct":
            self.register_buffer("_losses", unknown(tasks))
            return
        for name in ("_mean", "_square", "_updates"):
            self.register_buffer(name, torch.zeros(len(tasks), dtype=torch.float64))

    @property
    def log_variance(self) -> PerTask:
        """The s of each task, in the order of `tasks`."""
        return self._s.clone()

    def weigh(self, seen: Readings) -> PerTask:
        """The weights at s, which then takes its step; or at the optimal s."""
        if self._solve == "direct":
            self._settle(seen)
            self._used.copy_(self._s)
            return self._weights()
        weights = self._weights()
        self._used.copy_(kept(seen.active, self._s, self._used))
        self._step(0.5 - weights * seen.losses, seen.active)
        return weights

    def penalty(self) -> Float64[Tensor, ""]:
        """Sum of s/2 at the s of the latest weights."""
        return 0.5 * self._used.sum() if self.tasks else super().penalty()

    def _weights(self) -> PerTask:
        return (0.5 + 0.5 * self._classification) * torch.exp(-self._s)

    def _settle(self, seen: Readings) -> None:
        usable = seen.active & (seen.losses > 0)
        self._losses.copy_(smoothed(usable, seen.losses, self._losses, self._smoothing))
        optimum = log_variances(self._losses, self._classification > 0)
        self._s.copy_(torch.where(optimum.isfinite(), optimum, self._s))

    def _step(self, gradient: PerTask, active: Bool[Tensor, " tasks"]) -> None:
        """One step of torch.optim.Adam for the active tasks, each with its own count."""
        beta1, beta2 = _BETAS
        self._updates.add_(active)
        self._mean.copy_(kept(active, self._mean + (1 - beta1) * (gradient - self._mean), self._mean))
        self._square.copy_(kept(active, beta2 * self._square + (1 - beta2) * gradient.square(), self._square))
        mean = self._mean / (1 - beta1**self._updates)
        root = (self._square / (1 - beta2**self._updates)).sqrt()
        self._s.copy_(kept(active, self._s - self._lr * mean / (root + _EPS), self._s))


def _check(kinds: Mapping[str, str], lr: Number, solve: str, smoothing: Number) -> None:
    bad = {task: kind for task, kind in kinds.items() if kind not in get_args(Kind)}
    if bad:
        msg = f"`kinds` must be {' or '.join(get_args(Kind))}; found {bad}"
        raise ValueError(msg)
    if solve not in get_args(Solve):
        msg = f"`solve` must be one of {', '.join(get_args(Solve))}; found {solve!r}"
        raise ValueError(msg)
    if not (math.isfinite(lr) and lr > 0):
        msg = f"`lr` must be positive and finite; found {lr!r}"
        raise ValueError(msg)
    check_smoothing(smoothing)
    name, value, default = ("lr", lr, _LR) if solve == "direct" else ("smoothing", smoothing, _SMOOTHING)
    if value != default:
        warn(f'`{name}`={value!r} is not used by UncertaintyWeighting(solve="{solve}")', stacklevel=4)
