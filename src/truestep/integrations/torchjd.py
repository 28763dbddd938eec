"""TorchJD: its weightings as rules of a Balancer, and our rules as its scalarizers and weightings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from truestep.multitask._dynamic_task_priority import DynamicTaskPriority
from truestep.multitask._rule import AbstractRule, Readings
from truestep.multitask._surgery import Surgery
from truestep.multitask.balancing._normalize import Normalize, normalized

if TYPE_CHECKING:
    from torchjd.aggregation import Weighting as AnyWeighting
    from torchjd.scalarization import Scalarizer

    Weighting = AnyWeighting[Tensor]
else:
    try:
        from torchjd.aggregation import Weighting
        from torchjd.scalarization import Scalarizer
    except ImportError:  # said when one is built
        Scalarizer = Weighting = nn.Module

__all__ = ["Scalarized", "surgery", "weighting"]


def surgery(aggregator_or_weighting: nn.Module, **keywords: Any) -> Surgery:
    r"""A rule for the Balancer from an aggregator or a weighting of TorchJD that reads the Gramian alone.

    The weights are TorchJD's, on the Gramian of the tasks' gradients at the split; see `Surgery` for what that means,
    and for what is done about its unit, absent tasks and random numbers.

    UPGrad and DualProj need `torchjd[quadprog_projector]`, which `truestep[torchjd]` brings; CAGrad needs
    `torchjd[cagrad]`, FairGrad `torchjd[fairgrad]`. TorchJD says so where one is built.

    Args:
        aggregator_or_weighting: UPGrad() or UPGradWeighting(), say.
        keywords: `unit`, `absent`, `seed`, as `Surgery` takes them.

    Raises:
        ValueError: It reads more than the Gramian (ConFIG, GradDrop, NashMTL, ...), or is none of TorchJD's.
        ImportError: TorchJD is not installed.

    Example:
        >>> from torchjd.aggregation import MGDA
        >>> surgery(MGDA(), unit="norm").weighting
        MGDAWeighting()
    """
    _require()
    from torchjd import aggregation

    given = aggregator_or_weighting
    name = type(given).__name__
    if isinstance(given, aggregation.GramianWeightedAggregator):
        return Surgery(given.gramian_weighting, **keywords)
    if isinstance(given, aggregation.Aggregator):
        msg = f"`aggregator_or_weighting` must read the Gramian alone; {name} reads the Jacobian: use mtl_backward"
        raise ValueError(msg)
    if not isinstance(given, aggregation.Weighting):
        msg = f"`aggregator_or_weighting` must be a TorchJD Aggregator or Weighting; found {name}"
        raise ValueError(msg)
    if isinstance(given, (aggregation.ExcessMTLWeighting, aggregation.MoDoWeighting, aggregation.SDMGradWeighting)):
        msg = f"`aggregator_or_weighting` must read one Gramian; {name} reads Jacobians: use it with TorchJD's engine"
        raise ValueError(msg)
    if isinstance(getattr(given, "weighting", None), aggregation.Weighting) and hasattr(given, "fn"):
        msg = "`aggregator_or_weighting` is composed with a function of the Jacobian: give its inner `.weighting`"
        raise ValueError(msg)
    return Surgery(given, **keywords)


class Scalarized(Scalarizer):
    """A rule of ours as a TorchJD Scalarizer: for code that combines losses with one.

    A call is `rule(values)`: an update of the rule, and the weighted sum. Values of any shape count as one task an
    entry. The rule is a submodule: its state is saved, moved and copied with this one, and it has no parameters, so
    that an optimizer which is given `scalarizer.parameters()` gets none.

    Args:
        rule: One that reads losses alone: UnitNorm, UncertaintyWeighting, DynamicWeightAverage, Constant.
        num_tasks: Number of values, where state is to be loaded before the first call; else that call tells.

    Raises:
        ValueError: The rule reads gradients, which values do not show.
        ImportError: TorchJD is not installed.

    Example:
        >>> from truestep.multitask._uncertainty_weighting import UncertaintyWeighting
        >>> scalarizer = Scalarized(UncertaintyWeighting(lr=0.1))
        >>> scalarizer(torch.tensor([2.0, 8.0]))  # half of each, as yet
        tensor(5.)
        >>> scalarizer
        Scalarized(UncertaintyWeighting)
    """

    def __init__(self, rule: AbstractRule, num_tasks: int | None = None) -> None:
        _require()
        super().__init__()
        if rule.reads != "losses":
            msg = f"`rule` must read losses alone; {type(rule).__name__} reads gradients: give it to a Balancer"
            raise ValueError(msg)
        if rule.kpis:
            msg = f"`rule` must be told nothing but losses; {type(rule).__name__} needs balancer.kpi: use a Balancer"
            raise ValueError(msg)
        if num_tasks is not None and not rule.tasks:
            rule.start(tuple(str(i) for i in range(num_tasks)))
        self.rule = rule

    def forward(self, values: Tensor, /) -> Tensor:
        """The weighted sum, and one update of the rule."""
        return self.rule(values.reshape(-1))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.rule).__name__})"


def weighting(rule: AbstractRule, tasks: Sequence[str], *, normalize: Normalize = "budget") -> Weighting:
    r"""A TorchJD Weighting from a rule of ours that reads gradients alone: Shares, GradNorm(alpha=0).

    For TorchJD's own engine, where the Jacobian at the parameters is there:
    `jac_to_grad(parameters, GramianWeightedAggregator(weighting(rule, tasks)))`. Norms are the square roots of the
    Gramian's diagonal. A call is an update of the rule; its state is saved with the weighting.

    Args:
        rule: One that reads gradients, and neither losses nor L(0).
        tasks: Names in the order of the Jacobian's rows; taken where the rule has none yet.
        normalize: as the Balancer takes it: "budget", with :math:`\sum w_i g_i = \sum g_i`, "sum" or "none" (the rule's
            weights as they are, which are known up to a factor only).

    Returns:
        The weighting; tasks whose gradient is zero keep the weight they had, which is 1 at first.

    Raises:
        ValueError: The rule reads losses, L(0) or KPIs, which a Gramian does not show; or has other tasks.
        ImportError: TorchJD is not installed.

    Example:
        >>> from truestep.multitask._shares import Shares
        >>> share = weighting(Shares({"a": 3.0, "b": 1.0}), ["a", "b"])
        >>> share(torch.tensor([[1.0, 0.0], [0.0, 9.0]]))  # of norms 1 and 3: weighted ones are 3 and 1
        tensor([3.0000, 0.3333])
    """
    _require()
    if rule.reads == "losses" or rule.positive or isinstance(rule, DynamicTaskPriority):
        hint = "use Scalarized(rule)" if rule.reads == "losses" else "give it to a Balancer"
        msg = f"`rule` must read gradients alone; {type(rule).__name__} also reads losses or KPIs: {hint}"
        raise ValueError(msg)
    if isinstance(rule, Surgery):
        msg = "`rule` is a Surgery, made from a weighting: give TorchJD that weighting itself"
        raise ValueError(msg)
    return _RuleWeighting(rule, tuple(tasks), normalize)


class _RuleWeighting(Weighting):
    """See `weighting`."""

    weights: Tensor

    def __init__(self, rule: AbstractRule, tasks: tuple[str, ...], normalize: Normalize) -> None:
        super().__init__()
        if not rule.tasks:
            rule.start(tasks)
        if rule.tasks != tasks:
            msg = f"`tasks` must be those that the rule weighs: {', '.join(rule.tasks)}; found {', '.join(tasks)}"
            raise ValueError(msg)
        self.rule = rule
        self._normalize: Normalize = normalize
        self.register_buffer("weights", torch.ones(len(tasks), dtype=torch.float64))

    def forward(self, gramian: Tensor, /) -> Tensor:
        seen = self._seen(gramian.detach().double())
        self.weights.copy_(normalized(self.rule.weigh(seen), seen, self._normalize))
        return self.weights.to(gramian)

    def _seen(self, gram: Tensor) -> Readings:
        """All that a Gramian shows."""
        if gram.shape != (len(self.weights),) * 2:
            msg = f"`gramian` must have a row for each of {', '.join(self.rule.tasks)}; found shape {tuple(gram.shape)}"
            raise ValueError(msg)
        norms = gram.diagonal().sqrt()
        unknown = torch.full_like(norms, torch.nan)
        return Readings(unknown, unknown, norms, norms.isfinite() & (norms > 0), self.weights.to(gram), gram)


def _require() -> None:
    """Raise where TorchJD is not installed."""
    if Weighting is nn.Module:
        msg = "this needs TorchJD: pip install 'truestep[torchjd]' (with quadprog, for UPGrad)"
        raise ImportError(msg)
