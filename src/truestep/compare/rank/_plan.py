"""What each protocol trains, and how its runs are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare._factory import OptimizerFactory, lr_of
from truestep.compare.problems import Problem
from truestep.compare.rank._grid import first_length
from truestep.compare.rank._protocol import Knob, Protocol, judge_protocol
from truestep.compare.rank._search import Found
from truestep.compare.step_matched._blocks import Scope
from truestep.compare.step_matched._factor import Norm
from truestep.compare.training import Matched, train_trial

DEFAULT: Final = "default lr"

Trial = partial[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A protocol before its runs.

    Args:
        name: Of the protocol.
        knob: What multipliers multiply.
        units: Lr or length at multiplier 1, by optimizer.
        trials: A trial without its replicas, by optimizer.
    """

    name: str
    knob: Knob
    units: dict[str, float]
    trials: dict[str, Trial]

    def judged(self, found: Mapping[str, Found], ceiling: float, budgets: Sequence[int]) -> Protocol:
        """The protocol that the runs give."""
        grid = {name: [self.units[name] * value for value in each] for name, each in found.items()}
        half, end = ({name: _column(each, i) for name, each in found.items()} for i in (0, -1))
        return judge_protocol(self.name, self.knob, grid, end, half, ceiling=ceiling, budgets=budgets)

    def untuned(self, found: Mapping[str, Found], ceiling: float) -> Protocol:
        """The protocol in which every optimizer has the lr that it came with; its runs are among the tuned ones."""
        plain = Plan(DEFAULT, self.knob, self.units, self.trials)
        return plain.judged({name: {1.0: each[1.0]} for name, each in found.items()}, ceiling, ())


def list_plans(
    problem: Problem,
    optimizers: Mapping[str, OptimizerFactory],
    norms: Sequence[tuple[Norm, Scope]],
    *,
    steps: int,
    schedule: Literal["constant", "linear"],
) -> list[Plan]:
    """Lr tuned, one plan for each norm, and unit loss.

    Example:
        >>> import torch
        >>> from truestep.compare.problems import digits_mlp
        >>> plans = list_plans(digits_mlp(), {"sgd": torch.optim.SGD}, [("rms", "unit")], steps=9, schedule="linear")
        >>> [(plan.name, plan.knob) for plan in plans]
        [('tuned lr', 'lr'), ('matched rms unit', 'length'), ('unit loss', 'lr')]
    """
    lrs = {name: lr_of(factory) for name, factory in optimizers.items()}
    trials: dict[str, Trial] = {
        name: partial(train_trial, problem=problem, optimizer=factory, steps=steps, points=2, schedule=schedule)
        for name, factory in optimizers.items()
    }
    plans = [Plan("tuned lr", "lr", lrs, trials)]
    for norm, scope in norms:
        length = first_length(problem, norm, scope)
        matched = {name: partial(trial, control=Matched(length, norm, scope)) for name, trial in trials.items()}
        plans.append(Plan(f"matched {norm} {scope}", "length", dict.fromkeys(trials, length), matched))
    unit = {name: partial(trial, unit_loss=True) for name, trial in trials.items()}
    return [*plans, Plan("unit loss", "lr", lrs, unit)]


def _column(found: Found, point: int) -> Float64[Tensor, "values seeds"]:
    return torch.stack([each[:, point] for each in found.values()])
