"""Shares of the gradient, as the user sets them: EnCodec's balancer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from truestep.multitask._rule import AbstractRule, PerTask, Readings
from truestep.multitask._smoothed import check_smoothing, smoothed, unknown

Number = int | float


class Shares(AbstractRule):
    r"""Each task's gradient gets the share of the sum of norms that you name, whatever the size of its loss.

    .. math:: w_i \propto \frac{s_i}{\bar g_i}, \qquad
        \log\bar g_i \leftarrow \beta \log\bar g_i + (1 - \beta) \log g_i

    with :math:`s_i` = `shares`, :math:`\beta` = `smoothing` and :math:`g_i` the norm of task i's gradient, of any
    reduction. Then :math:`w_i g_i / \sum_j w_j g_j` is :math:`s_i / \sum_j s_j` up to the smoothing. Equal shares are
    `GradNorm(alpha=0)`. Where tasks are absent, those present share in the same proportions.

    Args:
        shares: One positive number a task, up to a common factor: {"mel": 2, "adversarial": 1}.
        smoothing: Share of the running average that is kept at an update; 0 sees the newest norm alone.

    Raises:
        ValueError: A share is not positive and finite, `smoothing` is not in [0, 1), or (when the tasks are known) a
            share is missing or belongs to no task.

    Note:
        Deviation: the paper averages the norm, with 0.999 kept at each step, and we its logarithm: a change of one
        loss's unit is then a constant, and a single large norm counts once, not by its size. The paper holds the sum
        of the weighted norms at a constant; here the Balancer's `normalize` says what it is ("budget": what it would
        be without weights). Norms are those of the whole batch, not means over its items.
        tests/multitask/test_shares.py shows the first.

    Example:
        >>> from truestep.multitask import Readings
        >>> rule = Shares({"mel": 3.0, "adversarial": 1.0}, smoothing=0)
        >>> rule.start(("mel", "adversarial"))
        >>> norms, ones = torch.tensor([[1.0, 50.0], [1.0, 1.0]]).double()
        >>> w = rule.weigh(Readings(losses=ones, ratios=ones, norms=norms, active=ones.bool(), weights=ones))
        >>> w * norms / (w * norms).sum()
        tensor([0.7500, 0.2500], dtype=torch.float64)

    References:
        Défossez, Copet, Synnaeve, Adi, "High Fidelity Neural Audio Compression", 2022, section 3.4.
    """

    reads = "norms"
    positive = False
    _shares: Tensor
    _log_norms: Tensor

    def __init__(self, shares: Mapping[str, Number], *, smoothing: Number = 0.9) -> None:
        super().__init__()
        bad = {task: share for task, share in shares.items() if not (math.isfinite(share) and share > 0)}
        if bad or not shares:
            msg = f"`shares` must be positive and finite, one a task; found {bad or 'none'}"
            raise ValueError(msg)
        check_smoothing(smoothing)
        self._given, self._smoothing = dict(shares), smoothing

    def _make(self, tasks: tuple[str, ...]) -> None:
        if set(self._given) != set(tasks):
            msg = f"`shares` must name each task once: {', '.join(tasks)}; found {', '.join(self._given)}"
            raise ValueError(msg)
        self.register_buffer("_shares", torch.tensor([self._given[task] for task in tasks], dtype=torch.float64))
        self.register_buffer("_log_norms", unknown(tasks))

    def weigh(self, seen: Readings) -> PerTask:
        """Shares over smoothed norms."""
        self._log_norms.copy_(smoothed(seen.active, seen.norms.log(), self._log_norms, self._smoothing))
        return self._shares / self._log_norms.exp()
