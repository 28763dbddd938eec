"""Dynamic weight average: tasks whose loss falls slowly from epoch to epoch get the larger weights."""

from __future__ import annotations

import math
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truestep.multitask._rule import AbstractRule, PerTask, Readings

Number = int | float

_EPOCHS: Final = 3  # the one that runs, the last, and the one before


def descent_weights(
    newer: Float[Tensor, " tasks"],
    older: Float[Tensor, " tasks"],
    temperature: Number,
    active: Bool[Tensor, " tasks"] | None = None,
) -> PerTask:
    r"""Weights from the mean losses of the last two epochs, with the number of tasks as their sum.

    .. math:: w_k = K\, \operatorname{softmax}_k\!\left( \frac{L_k(t-1) / L_k(t-2)}{\tau} \right)

    A factor on one task's loss cancels, be it unit or reduction.

    Args:
        newer: :math:`L(t-1)`, means over the last epoch.
        older: :math:`L(t-2)`, over the one before.
        temperature: :math:`\tau` > 0, the larger the more equal.
        active: The K tasks to weigh; the others get 0. All where it is not given.

    Returns:
        The weights. A task whose ratio is not finite, one average being nan say, counts with ratio 1.

    Example:
        >>> descent_weights(torch.tensor([0.5, 90.0]), torch.tensor([1.0, 100.0]), temperature=2)
        tensor([0.9003, 1.0997], dtype=torch.float64)

    References:
        Liu, Johns, Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, eq. 7.
    """
    ratio = newer.double() / older.double()
    score = torch.where(ratio.isfinite(), ratio, 1.0) / temperature
    among = torch.ones_like(score, dtype=torch.bool) if active is None else active
    return torch.where(among, score, -torch.inf).softmax(0) * among.sum()


class DynamicWeightAverage(AbstractRule):
    r"""Weights from how much of its loss each task kept over the last epoch; equal ones in the first two.

    See `descent_weights`. Averages are over what was seen: a task counts in an epoch's average only where it was in
    the batch. One that lacks either average, because it came late or was away for an epoch, gets ratio 1, that is "as
    fast as a task at rest": there is nothing to tell its pace from, and its softmax stays comparable with the others'.

    Call `balancer.rule.end_epoch()` at the end of each epoch, or give `period`. A Balancer with `update_every=n` shows
    a rule each n-th step only, so that `period` counts updates, not steps.

    What it can do is little: ratios of later epochs are close to 1, where temperature 2 gives weights within a per cent
    of each other, and it does not see the losses' sizes at all. Do not expect it to balance units.

    Args:
        temperature: :math:`\tau`; the paper's is 2.
        period: Updates in an epoch, after which the history rolls by itself; None leaves that to `end_epoch`.

    Raises:
        ValueError: `temperature` is not positive and finite, or `period` not a positive int.

    Note:
        Deviation: none while all tasks are there; tests/multitask/test_dynamic_weight_average.py has it step for step
        against TorchJD's DWA. A loss without news is left out of the average, and an average of zero counts as none.

    Example:
        >>> rule = DynamicWeightAverage(period=1)
        >>> for losses in ([1.0, 100.0], [0.5, 90.0], [0.4, 80.0]):
        ...     total = rule(torch.tensor(losses))
        >>> total  # 0.9003 of the first, 1.0997 of the second
        tensor(88.3336)

    References:
        Liu, Johns, Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, eq. 7.
    """

    _sums: Tensor
    _counts: Tensor
    _updates: Tensor

    def __init__(self, temperature: Number = 2.0, *, period: int | None = None) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            msg = f"`temperature` must be positive and finite; found {temperature!r}"
            raise ValueError(msg)
        if period is not None and (isinstance(period, bool) or period < 1):
            msg = f"`period` must be a positive int, the updates in an epoch, or None; found {period!r}"
            raise ValueError(msg)
        self._temperature, self._period = temperature, period

    def _make(self, tasks: tuple[str, ...]) -> None:
        self.register_buffer("_sums", torch.zeros(_EPOCHS, len(tasks), dtype=torch.float64))
        self.register_buffer("_counts", torch.zeros(_EPOCHS, len(tasks), dtype=torch.float64))
        self.register_buffer("_updates", torch.zeros((), dtype=torch.float64))

    def weigh(self, seen: Readings) -> PerTask:
        """Weights of the last two epochs; then the losses enter the average of this one."""
        _, newer, older = self._sums / self._counts  # 0/0 is the nan of a task without an average
        weights = descent_weights(newer, older, self._temperature, seen.active)
        self._sums[0].add_(torch.where(seen.active, seen.losses, 0.0))
        self._counts[0].add_(seen.active)
        self._updates.add_(1)
        if self._period is not None:
            self._roll(self._updates >= self._period)
        return weights

    def end_epoch(self) -> None:
        """Close this epoch's averages: the last becomes the one before. Does nothing where no loss was seen."""
        if self.tasks:
            self._roll(self._counts[0].sum() > 0)

    def _roll(self, over: Bool[Tensor, ""]) -> None:
        for kept in (self._sums, self._counts):
            kept.copy_(torch.where(over, torch.cat([torch.zeros_like(kept[:1]), kept[:-1]]), kept))
        self._updates.copy_(torch.where(over, 0.0, self._updates))
