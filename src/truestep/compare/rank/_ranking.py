"""Optimizers in the order of their losses, under every protocol that claims to be fair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare._ceiling import loss_ceiling
from truestep.compare._factory import OptimizerFactory
from truestep.compare.problems import Problem
from truestep.compare.rank._cautions import list_cautions
from truestep.compare.rank._grid import half_decades
from truestep.compare.rank._kendall_tau import kendall_tau
from truestep.compare.rank._plan import list_plans
from truestep.compare.rank._protocol import Protocol
from truestep.compare.rank._search import Search
from truestep.compare.step_matched._blocks import Scope
from truestep.compare.step_matched._factor import Norm
from truestep.compare.sweep import Sweep


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which optimizer is first, under each protocol, and what the answer depends on.

    Args:
        problem: What was trained.
        names: Of the optimizers.
        seeds: Runs of each value, the same weights and data for all optimizers.
        steps: Of each run.
        protocols: "default lr", "tuned lr", one "matched <norm> <scope>" for each norm, "unit loss".
        tau: Kendall's tau between the protocols' orders, nan where all optimizers are equal.
        half_tau: Of each protocol: tau between the order at half of training and at its end.
        warnings: Reasons to doubt the order.
    """

    problem: str
    names: tuple[str, ...]
    seeds: int
    steps: int
    protocols: tuple[Protocol, ...]
    tau: Float64[Tensor, "protocols protocols"]
    half_tau: dict[str, float]
    warnings: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What a reader needs, in one sentence."""
        winners: dict[str, list[str]] = {}
        for protocol in self.protocols:
            winners.setdefault(protocol.winner, []).append(protocol.name)
        if len(winners) == 1:
            told = f"{next(iter(winners))} leads under every protocol"
        else:
            told = "; ".join(f"{name} leads under {', '.join(under)}" for name, under in winners.items())
        return f"{self.problem}: {told}; {self._agreement}"

    @property
    def _agreement(self) -> str:
        pairs = torch.combinations(torch.arange(len(self.protocols)))
        tau = [x for x in self.tau[pairs[:, 0], pairs[:, 1]].tolist() if not math.isnan(x)]
        return (
            f"Kendall's tau between the orders from {min(tau):.2f} to {max(tau):.2f}" if tau else "no order to compare"
        )

    def __str__(self) -> str:
        width = max(map(len, self.names))
        lines = [self.sentence, f"loss after {self.steps} steps, geometric mean of {self.seeds} seeds [95 %]"]
        for protocol in self.protocols:
            lines.append(f"{protocol.name}:")
            for name in protocol.order:
                told = f"{protocol.rank[name]:3} {name:{width}} {protocol.loss[name]}"
                lines.append(f"{told}  at {protocol.knob} {protocol.best[name]:.3g}")
        return "\n".join([*lines, *(f"warning: {each}" for each in self.warnings)])


def ranking(
    problem: Problem,
    optimizers: Mapping[str, OptimizerFactory],
    *,
    seeds: int = 8,
    steps: int | None = None,
    budgets: Sequence[int] = (1, 2, 3, 5, 10, 30),
    norms: Sequence[tuple[Norm, Scope]] = (("l2", "global"), ("relative", "tensor")),
    schedule: Literal["constant", "linear"] = "linear",
    grid: Sequence[float | int] | None = None,
    sweep: Sweep | None = None,
) -> Ranking:
    """Rank optimizers by the loss at the end of training, under every protocol, each tuned as well as the others.

    - "default lr": the lr that each factory gives.
    - "tuned lr": the lr of least geometric mean over seeds; `Protocol.budget` has what fewer tries would have given.
    - "matched <norm> <scope>": steps of one length for all, tuned the same way, so that directions alone differ.
    - "unit loss": lr tuned, each loss divided by its own value before the backward.

    Args:
        problem: What is trained.
        optimizers: params -> optimizer, by the name in the report; for a sweep that is kept, `functools.partial`s of
            importable classes or functions.
        seeds: Runs of each value, at least 2.
        steps: Length of a run; None for the problem's own.
        budgets: Numbers of draws from the grid to tell the expected best loss for.
        norms: Norm and scope of each matched protocol. No norm is neutral: each has an optimizer that descends most
            steeply in it. Give two at least.
        schedule: Of the lr, or of the length. Orders before the end of a decay are no orders.
        grid: Multiples of each optimizer's lr, and of a length that is 3 % of the weights' size; 1 is always among
            them. None: seven half decades around 1, and up to four times two more where the best lies at the edge.
        sweep: Where the trials run and are kept; None: in this process, one after another, nothing kept.

    Raises:
        ValueError: If there are fewer than two optimizers, seeds or steps, or a loss is negative.

    Note:
        The best value is chosen by the same seeds that it is reported for; its loss is a little too good, for all
        optimizers alike. `probabilities` choose anew in each resample. A budget's draws come from the grid that was
        tried: an optimizer whose own lr is far from the best has a wide one, and pays for it.

    Example:
        >>> import torch
        >>> from truestep.compare.problems import noisy_quadratic
        >>> optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        >>> result = ranking(noisy_quadratic(), optimizers, seeds=2, steps=4, grid=(1, 10))
        >>> [protocol.name for protocol in result.protocols]
        ['default lr', 'tuned lr', 'matched l2 global', 'matched relative tensor', 'unit loss']

    References:
        Choi et al., 2019, "On empirical comparisons of optimizers for deep learning": grids that grow until the best
        lies within. Dodge et al., 2019, "Show your work": expected best of a budget.
    """
    steps = problem.max_steps if steps is None else steps
    _check(optimizers, seeds, steps)
    ceiling = loss_ceiling(problem)
    plans = list_plans(problem, optimizers, norms, steps=steps, schedule=schedule)
    first = half_decades(-3, 3) if grid is None else tuple(sorted({1.0, *map(float, grid)}))
    trials = {(plan.name, name): trial for plan in plans for name, trial in plan.trials.items()}
    found = Search(seeds, first, grid is None, ceiling).run(trials, sweep)
    by_plan = [{name: found[plan.name, name] for name in optimizers} for plan in plans]
    protocols = [plan.judged(each, ceiling, budgets) for plan, each in zip(plans, by_plan, strict=True)]
    return judge_ranking(problem.name, [plans[0].untuned(by_plan[0], ceiling), *protocols], steps, ceiling)


def judge_ranking(problem: str, protocols: Sequence[Protocol], steps: int, ceiling: float) -> Ranking:
    """The ranking of protocols whose runs are done; see `ranking`."""
    levels = [each.levels for each in protocols]
    tau = torch.tensor([[kendall_tau(one, other) for other in levels] for one in levels], dtype=torch.float64)
    half = {each.name: kendall_tau(each.half_levels(ceiling), each.levels) for each in protocols}
    names = tuple(protocols[0].rank)
    seeds = protocols[0].losses[names[0]].shape[1]
    warnings = list_cautions(protocols, tau, half, seeds)
    return Ranking(problem, names, seeds, steps, tuple(protocols), tau, half, warnings)


def _check(optimizers: Mapping[str, OptimizerFactory], seeds: int, steps: int) -> None:
    if len(optimizers) < 2:
        raise ValueError(f"`optimizers` must be at least two, by name, found {list(optimizers)}")
    if seeds < 2:
        raise ValueError(f"`seeds` must be at least 2 for an interval, found {seeds}")
    if steps < 2:
        raise ValueError(f"`steps` must be at least 2, so that there is a half of training, found {steps}")
