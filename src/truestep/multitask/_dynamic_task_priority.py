"""Dynamic task prioritization: the tasks that still do badly get the larger weights."""

from __future__ import annotations

import math
from typing import Final, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from truestep.multitask._rule import AbstractRule, PerTask, Readings, mean_over
from truestep.multitask._smoothed import check_smoothing, smoothed, unknown

Number = int | float
Unit = Literal["none", "loss", "norm"]

_EDGE: Final = 1e-3  # a KPI counts as at least this, and at most 1 less this


def priority(kpi: Float[Tensor, " tasks"], gamma: Number) -> PerTask:
    r"""The focal priority of a task whose key performance indicator is `kpi`.

    .. math:: D(\kappa) = -(1 - \kappa)^\gamma \log \kappa

    At 0 it is infinite, and at 1 the task would be dropped for good, so :math:`\kappa` is held between 0.001 and 0.999.

    ====== ======= ======= =======
    κ      γ = 0   γ = 1   γ = 2
    ====== ======= ======= =======
    0.1    2.30    2.07    1.87
    0.5    0.693   0.347   0.173
    0.9    0.105   0.0105  0.00105
    ====== ======= ======= =======

    Args:
        kpi: In [0, 1], larger is better: accuracy, average precision, PCK. nan stays nan.
        gamma: Not negative. The larger, the less the good tasks get: between 0.1 and 0.9 priorities are 22, 197 and
            1770 to 1 for gamma 0, 1 and 2.

    Example:
        >>> priority(torch.tensor([0.1, 0.9]), gamma=1)
        tensor([2.0723, 0.0105], dtype=torch.float64)

    References:
        Guo, Haque, Huang, Yeung, Fei-Fei, "Dynamic Task Prioritization for Multitask Learning", ECCV 2018.
    """
    kappa = kpi.double().clamp(_EDGE, 1 - _EDGE)
    return -((1 - kappa) ** gamma) * kappa.log()


class DynamicTaskPriority(AbstractRule):
    r"""Weights from how well each task does by its own measure, which you tell by `balancer.kpi({task: value})`.

    .. math:: w_i = D(\bar\kappa_i)\, u_i, \qquad
        \bar\kappa_i \leftarrow \beta \bar\kappa_i + (1 - \beta) \kappa_i

    D is `priority`, :math:`\beta` = `smoothing` is the share of the average kept at a new value, and :math:`u_i` is 1,
    or with `unit` :math:`1/L_i` ("loss") or :math:`1/g_i` ("norm", g the norm of the task's gradient).

    A KPI is in [0, 1], larger is better. It may come as seldom as a validation, for one task or all, and also for a
    task that the batch lacks; between two values the priority stays. Of several told, also by ranks, the mean counts.
    A task without any KPI yet counts with the mean priority of those that have one, and with 1 while there is none.

    Two things to know:

    - **Priorities know nothing of the losses' units.** A priority says how much a task matters, not how large its
      gradient is: two tasks of equal KPI get equal weights though one loss be in millimetres and the other in metres.
      The paper's losses are all cross-entropies. For others give `unit`, so that D is what a unit of loss ("loss": the
      gradient of :math:`D_i \log L_i`) or of gradient ("norm": :math:`w_i g_i \propto D_i`) counts.
    - **The sum of the weights falls as the tasks get better**: from KPIs of 0.1 to 0.9 at gamma 1, by a factor of 197.
      Under SGD that is a decay of the lr which nobody asked for. It acts under `normalize="none"`, the paper's;
      the Balancer's "budget" removes it, as `report.step_factor` shows.

    Args:
        gamma: Focus, :math:`\gamma \ge 0`; see `priority`.
        smoothing: Share of the average KPI that is kept when a new one comes; 0 takes the newest alone.
        unit: "none" (the paper's), "loss" or "norm".

    Raises:
        ValueError: `gamma` is negative or not finite, `smoothing` is not in [0, 1), or `unit` is none of those.

    Note:
        Deviation: the paper also replaces each example's loss by its focal loss. That is the loss, and yours to choose.
        KPIs are held away from 0 and 1 (see `priority`), and a task whose unit cannot be told (a loss of zero, say)
        takes the mean of the others' factor. tests/multitask/test_dynamic_task_priority.py shows both.

    Example:
        >>> from truestep.multitask._rule import Readings
        >>> rule = DynamicTaskPriority(gamma=1)
        >>> rule.start(("detection", "pose"))
        >>> one, kpis = torch.ones(2).double(), torch.tensor([0.5, 0.1]).double()
        >>> rule.weigh(Readings(one, one, one, one.bool(), one, kpis=kpis))
        tensor([0.3466, 2.0723], dtype=torch.float64)

    References:
        Guo, Haque, Huang, Yeung, Fei-Fei, "Dynamic Task Prioritization for Multitask Learning", ECCV 2018.
    """

    kpis = True
    positive = False
    _kpis: Tensor

    def __init__(self, gamma: Number = 1.0, *, smoothing: Number = 0.9, unit: Unit = "none") -> None:
        super().__init__()
        if not (math.isfinite(gamma) and gamma >= 0):
            msg = f"`gamma` must be finite and at least 0; found {gamma!r} (0: -log of the KPI; the paper: around 1)"
            raise ValueError(msg)
        if unit not in get_args(Unit):
            msg = f"`unit` must be one of {', '.join(get_args(Unit))}; found {unit!r}"
            raise ValueError(msg)
        check_smoothing(smoothing)
        self._gamma, self._smoothing, self._unit = gamma, smoothing, unit
        self.reads = "norms" if unit == "norm" else "losses"
        self.positive = unit == "loss"

    def _make(self, tasks: tuple[str, ...]) -> None:
        self.register_buffer("_kpis", unknown(tasks))

    def weigh(self, seen: Readings) -> PerTask:
        """Priorities, in the unit asked for, after the news of KPIs."""
        if seen.kpis is not None:
            told = seen.kpis.isfinite()  # also of tasks that this batch lacks: a validation is no batch
            self._kpis.copy_(smoothed(told, seen.kpis, self._kpis, self._smoothing))
        weights = _filled(priority(self._kpis, self._gamma), ~self._kpis.isnan())
        if self._unit == "none":
            return weights
        factor = (seen.losses if self._unit == "loss" else seen.norms).reciprocal()
        return weights * _filled(factor, seen.active & (factor > 0) & factor.isfinite())


def _filled(x: PerTask, known: Bool[Tensor, " tasks"]) -> PerTask:
    """`x` where it is known, the mean of those elsewhere; 1 where none is."""
    mean = torch.where(known.any(), mean_over(known, x), 1.0)
    return torch.where(known, x, mean)
