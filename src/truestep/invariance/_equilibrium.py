"""Where weight decay shortens a scale-invariant weight as fast as its steps lengthen it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.invariance._rule import Number, Rule, as_float64, rules
from truestep.invariance._walk import Moments, angle_of, coupled, decoupled, lion


def equilibrium(optimizer: Optimizer | Rule) -> Equilibrium:
    r"""The equilibrium of scale-invariant weights under each parameter group: angle, norm and three time scales.

    .. math:: \theta_\text{SGD} = \arccos\Big(1-\frac{\eta\lambda}{1+\mu}\Big) \approx
        \sqrt{\frac{2\eta\lambda}{1+\mu}}, \qquad
        \theta_\text{AdamW} \approx \sqrt{2\eta\lambda\,\frac{1-\beta_1}{1+\beta_1}}

    in rad a step (rms), in the model of a random walk: gradients isotropic, independent from step to step, orthogonal
    to the weight. The angle knows neither the gradient's size nor the initialization, so it holds for any reduction of
    the loss; the norm does not. For weights that are not scale invariant, nothing of this holds.

    Args:
        optimizer: SGD (also with dampening or Nesterov), Adam or AdamW of torch, or one called SGDW or Lion; or a
            `Rule`. Its settings are read as they are now: under a schedule, this is the equilibrium of this moment.

    Raises:
        ValueError: If the class is not known, the lr of all groups is 0, none that moves has weight decay (the norm
            then grows without end), or lr times weight decay is 1 or more.

    Example:
        >>> group = torch.nn.Linear(9, 1).parameters()
        >>> (found,) = equilibrium(torch.optim.SGD(group, lr=0.1, momentum=0.9, weight_decay=5e-3)).groups
        >>> found.angle, found.measured(gradient_size=4.0).norm
        (tensor(0.0229, dtype=torch.float64), tensor(4.4723, dtype=torch.float64))
        >>> round(float(found.norm_time)), round(float(found.direction_time))  # steps
        (50, 200)

    References:
        Li, Lyu & Arora 2020 (arXiv:2010.02916); Wan et al. 2020 (arXiv:2006.08419); Kosson et al. 2023
        (arXiv:2305.17212), whose table is the first order in lr times weight decay of what stands here.

    Note: Deviation
        All moments are those of the discrete walk, not of its limit at small lr times weight decay
        (`tests/invariance/test_walk.py`). Lion's published form is the limit where decay is far slower than its
        second average: at betas (0.9, 0.99) and lr·wd = 1e-3 that is 3 % of the angle, at 5e-3 14 %
        (`test_lion_by_the_arcsine_law`). It stays marked approximate: the sign's law is that of Gaussian gradients.
        Adam's eps is taken to be far below the gradient's elements, and its second moment to be at its mean.
    """
    found = (optimizer,) if isinstance(optimizer, Rule) else rules(optimizer)
    for index, rule in enumerate(found):
        _check(rule, index)
    groups = tuple(GroupEquilibrium(rule) for rule in found)
    if all(group.idle for group in groups):
        msg = "`lr` must be above 0 in some group, found 0 in all: nothing moves; give the lr that you ask about"
        raise ValueError(msg)
    if all(group.idle or group.grows for group in groups):
        msg = (
            "`optimizer` must have weight decay, found 0 in every group: without it the norm of a scale-invariant "
            "weight grows without end and there is no equilibrium; set `weight_decay`, or use `growth_law`"
        )
        raise ValueError(msg.replace("group:", "group whose lr is above 0:") if any(g.idle for g in groups) else msg)
    return Equilibrium(groups)


def _check(rule: Rule, index: int) -> None:
    lr, product = as_float64(rule.lr), as_float64(rule.lr) * as_float64(rule.weight_decay)
    if not bool((lr >= 0).all()):
        msg = f"`lr` must be 0 or more, found {rule.lr} in group {index}; give the lr that you ask about"
        raise ValueError(msg)
    if not bool(((product >= 0) & (product < 1)).all()):
        msg = f"lr times `weight_decay` must lie in [0, 1), found {product} in group {index}: no weight would be left"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Equilibrium:
    """The equilibria of an optimizer's parameter groups, in their order.

    Example:
        >>> groups = [{"params": [torch.zeros(2)]}, {"params": [torch.zeros(2)], "weight_decay": 0.0}]
        >>> [group.grows for group in equilibrium(torch.optim.AdamW(groups)).groups]
        [False, True]
    """

    groups: tuple[GroupEquilibrium, ...]


@dataclass(frozen=True, slots=True)
class GroupEquilibrium:
    r"""The equilibrium of a scale-invariant weight under one rule.

    Without weight decay it is the limit: angle 0, norm and times inf. At an lr of 0 nothing moves: angle 0, times inf,
    and any norm stays, so that of equilibrium is nan. What needs a number that is not given is nan.

    Args:
        rule: The rule and its settings, numbers or one for each block.
        gradient_size: :math:`G = \mathbb{E}\|\nabla L(w/\|w\|)\|^2`, of the gradient at the unit sphere; measured by
            `gradient_size`. Asked for by the norm of SGD and by everything of Adam with coupled decay.
        numel: Number of elements d of the weight (of one unit, where units are what is invariant). Asked for by the
            norm of Adam and Lion, whose step has d elements of one size.
    """

    rule: Rule
    gradient_size: Number = nan
    numel: Number = nan

    def measured(self, gradient_size: Number | None = None, numel: Number | None = None) -> GroupEquilibrium:
        """The same with the size of the gradient, or the number of elements, filled in."""
        given = {"gradient_size": gradient_size, "numel": numel}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    @property
    def approximate(self) -> bool:
        """Whether the formula needs more than the random walk: Lion's sign needs Gaussian gradients."""
        return self.rule.family == "lion"

    @property
    def idle(self) -> bool:
        """Whether the lr is 0, as at the start of a warm-up: no weight moves."""
        return bool((as_float64(self.rule.lr) == 0).all())

    @property
    def grows(self) -> bool:
        """Whether what moves has no weight decay anywhere: the norm grows without end, the angle goes to 0."""
        return not self.idle and bool((as_float64(self.rule.weight_decay) == 0).all())

    @property
    def angle(self) -> Float64[Tensor, "..."]:
        """Rms angle of one step, in radians."""
        return angle_of(_moments(self)[0])

    @property
    def norm(self) -> Float64[Tensor, "..."]:
        r"""Norm of the weight: :math:`\|w\|^4 = \eta^2 G/\text{kick}` for SGD, :math:`\|w\|^2 = \eta^2 d/\text{kick}`
        for Adam and Lion.

        To first order :math:`\|w\|^4 = \eta G / 2\lambda(1-\mu)` with coupled decay (:math:`(1-\mu)^2` decoupled) and
        :math:`\|w\|^2 = \eta d / 2\lambda` for AdamW.
        """  # noqa: D205
        if self.rule.depends_on_gradient:
            return torch.where(as_float64(self.rule.lr) == 0, nan, _adam_l2_squared_norm(self).sqrt())
        kick = _moments(self)[1]
        if self.rule.family == "sgd":
            return (self.rule.step_lr**2 * as_float64(self.gradient_size) / kick) ** 0.25
        return (self.rule.step_lr**2 * as_float64(self.numel) / kick).sqrt()

    @property
    def rate(self) -> Float64[Tensor, "..."]:
        r"""What decay takes of the weight a step: :math:`\eta\lambda`, times :math:`1/(1-\mu)` where coupled to SGD."""
        return _decay(self) / (1 - as_float64(self.rule.momentum)) if _is_coupled_sgd(self.rule) else _decay(self)

    @property
    def direction_time(self) -> Float64[Tensor, "..."]:
        r"""Steps in which the direction forgets where it was, by a factor e: 1 / `rate`, the intrinsic time scale."""
        return 1 / self.rate

    @property
    def norm_time(self) -> Float64[Tensor, "..."]:
        r"""Steps in which the norm's distance from equilibrium falls by a factor e: 1/(4 `rate`) for SGD, exactly so
        for :math:`\|w\|^4`; 1/(2 `rate`) for AdamW and Lion, for :math:`\|w\|^2`; 1/(3 `rate`) for Adam with coupled
        decay, close to equilibrium. Adam's second moment must keep up: 1/(1 - beta2) steps or more.
        """  # noqa: D205
        return self.direction_time / _norm_speed(self.rule)

    @property
    def buffer_time(self) -> Float64[Tensor, "..."]:
        r"""Steps for which a gradient stays in the step: :math:`1/(1-\mu)`, :math:`1/(1-\beta_1)`; Lion
        :math:`1/(1-\beta_2)`. The two other times mean something only if they are longer.
        """  # noqa: D205
        rule = self.rule
        return 1 / (1 - as_float64(rule.beta2 if rule.family == "lion" else rule.momentum))

    def norm_after(self, start: Number, steps: Number) -> Float64[Tensor, "..."]:
        r"""Norm that comes of `start` in so many steps: :math:`\|w\|^p` goes to its value as `exp(-p rate t)`.

        With p = 4 for SGD and 2 for AdamW and Lion; for Adam with coupled decay p = 3 close to equilibrium only. At an
        lr of 0 it is `start`.
        """
        power = _norm_speed(self.rule)
        end, left = self.norm**power, torch.exp(-as_float64(steps) / self.norm_time)
        after = (end + (as_float64(start) ** power - end) * left) ** (1 / power)
        return torch.where(as_float64(self.rule.lr) == 0, as_float64(start), after)


def _norm_speed(rule: Rule) -> int:
    return 4 if rule.family == "sgd" else 3 if rule.depends_on_gradient else 2


def _is_coupled_sgd(rule: Rule) -> bool:
    return rule.family == "sgd" and not rule.decoupled


def _decay(group: GroupEquilibrium) -> Float64[Tensor, "..."]:
    """What one step's decay takes of the weight: lr times weight decay, as the rule scales the two."""
    rule = group.rule
    if rule.depends_on_gradient:  # the decay is divided by the size of a gradient's element, as the gradient is
        size = (_adam_l2_squared_norm(group) * as_float64(group.numel) / as_float64(group.gradient_size)).sqrt()
        x = as_float64(rule.lr) * as_float64(rule.weight_decay)
        return torch.where(x == 0, x, x * size)  # where there is none, the size, known or not, does not matter
    return (rule.step_lr if _is_coupled_sgd(rule) else as_float64(rule.lr)) * as_float64(rule.weight_decay)


def _adam_l2_squared_norm(group: GroupEquilibrium) -> Float64[Tensor, "..."]:
    r"""Adam with coupled decay: :math:`\|w\|^3 = \eta\sqrt{dG}/2\lambda`, squared norm of it."""
    size = (as_float64(group.numel) * as_float64(group.gradient_size)).sqrt()
    return (as_float64(group.rule.lr) * size / (2 * as_float64(group.rule.weight_decay))) ** (2 / 3)


def _moments(group: GroupEquilibrium) -> Moments:
    """Bend and kick of the rule."""
    rule, x, memory = group.rule, _decay(group), as_float64(group.rule.momentum)
    if rule.family == "lion":
        return lion(x, memory, as_float64(rule.beta2))
    if rule.decoupled:
        return decoupled(x, memory, nesterov=rule.nesterov)
    if rule.depends_on_gradient:
        x = x * (1 - memory)  # torch's average of gradients is a buffer at an lr of (1 - beta1)
    return coupled(x, memory, nesterov=rule.nesterov)
