"""Two optimizers, four arms: each one's direction at each one's step length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare._ceiling import loss_ceiling
from truestep.compare._factory import OptimizerFactory, describe
from truestep.compare._run_trials import run_trials
from truestep.compare.problems import Problem
from truestep.compare.statistics import Interval, log_losses, paired_interval
from truestep.compare.step_matched._blocks import Scope
from truestep.compare.step_matched._factor import Norm
from truestep.compare.swap._effects import swap_effects
from truestep.compare.swap._ratio_interval import ratio_interval
from truestep.compare.sweep import Sweep
from truestep.compare.training import Curves, Grafted, Replica, train_trial

Side = Literal["a", "b"]
Arm = tuple[Side, Side]  # whose direction, whose length

ARMS: Final[tuple[Arm, ...]] = (("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"))


@dataclass(frozen=True, slots=True)
class SwapTest:
    """Why the loss changes when `b` takes the place of `a`: its steps' length, or their direction.

    Effects are changes of the mean log loss over the run, in nats, with 95 % intervals over seeds; below 0 the loss
    falls. -0.1 is a loss that is lower by 10 %.

    Args:
        problem: What was trained.
        a: The optimizer that is replaced.
        b: The one that takes its place.
        seeds: Pairs of weights and data order, the same in all arms.
        norm: What lengths are measured in.
        scope: What has a length of its own.
        total: Effect of the swap.
        length: Of b's lengths. `length` + `direction` = `total`.
        direction: Of b's directions.
        interaction: Of both at once, beyond each alone; shared out equally above.
        length_share: length / total. Its ends are infinite where the total may be 0. It passes 1 where the direction
            works against the length.
        steps: Steps done at each point.
        losses: On the probe, of the arms (whose direction, whose length).
        diverged: Runs, of all arms, that diverged: each counts as a thousand times the loss before training.
    """

    problem: str
    a: str
    b: str
    seeds: int
    norm: Norm
    scope: Scope
    total: Interval
    length: Interval
    direction: Interval
    interaction: Interval
    length_share: Interval
    steps: tuple[int, ...]
    losses: dict[Arm, Float64[Tensor, "seeds points"]]
    diverged: int = 0

    @property
    def sentence(self) -> str:
        """What a reader needs, in one sentence."""
        runs = f"{self.diverged} of {len(ARMS) * self.seeds} runs diverged"
        return f"{self._change}; {runs}, each counted as 1000 times the first loss" if self.diverged else self._change

    @property
    def _change(self) -> str:
        swap = f"{self.b} in place of {self.a} on {self.problem}"
        if not self.total.excludes(0.0):
            return f"{swap}: no change that {self.seeds} seeds can tell, log loss {self.total}"
        way, total = "raises", self.total
        if total.mean < 0:
            way, total = "lowers", Interval(-total.mean, -total.high, -total.low)
        change = f"{swap} {way} the log loss, averaged over the run, by {total} nats: "
        length, direction = round(100 * self.length_share.mean), round(100 * (1 - self.length_share.mean))
        if length >= 0 and direction >= 0:
            low, high = (f"{100 * end:.0f}" for end in (self.length_share.low, self.length_share.high))
            return f"{change}{length} % [{low}, {high}] of it is the length of its steps, {direction} % their direction"
        parts = f"the length of its steps does {_signed(self.length)}, their direction {_signed(self.direction)}"
        return change + parts

    def __str__(self) -> str:
        unit = f"nats of log loss; lengths in {self.norm}, {self.scope}; {self.seeds} seeds"
        rows = [(name, str(getattr(self, name))) for name in ("total", "length", "direction", "interaction")]
        return "\n".join([self.sentence, *(f"  {name:12}{value}" for name, value in rows), f"  {unit}"])


def swap_test(
    problem: Problem,
    a: OptimizerFactory,
    b: OptimizerFactory,
    *,
    seeds: int = 8,
    steps: int | None = None,
    points: int = 30,
    norm: Norm = "l2",
    scope: Scope = "global",
    sweep: Sweep | None = None,
) -> SwapTest:
    """Train with the directions of each at the lengths of each, and share the change of the loss out among them.

    Four arms: a, b, a's directions at b's lengths, b's at a's. A borrowed length is that of the step which its owner
    would take at the same weights from the same gradients, with a state of its own. Weights and data are paired by
    seed. The answer holds for the declared norm and scope: ask in two of them.

    Args:
        problem: What is trained.
        a: params -> optimizer; for a sweep that is kept, a `functools.partial` of an importable class or function.
        b: The same.
        seeds: Runs of each arm, at least 2.
        steps: Length of a run; None for the problem's own.
        points: Evaluations, evenly spaced, over which the log loss is averaged.
        norm: What lengths are measured in.
        scope: What has a length of its own: all weights ("global"), each "group", "tensor" or "unit".
        sweep: Where the trials run and are kept; None: in this process, nothing kept.

    Raises:
        ValueError: If `seeds` is below 2, or a loss is negative.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from truestep.compare.problems import noisy_quadratic
        >>> a, b = partial(torch.optim.SGD, lr=0.01), partial(torch.optim.SGD, lr=0.02)
        >>> test = swap_test(noisy_quadratic(), a, b, seeds=2, steps=20, points=4)
        >>> round(test.length_share.mean, 4), abs(test.direction.mean) < 1e-4  # another lr is another length, no more
        (1.0, True)
    """
    if seeds < 2:
        raise ValueError(f"`seeds` must be at least 2 for an interval, found {seeds}")
    trials = [
        partial(
            train_trial,
            problem=problem,
            optimizer=a if direction == "a" else b,
            replicas=tuple(Replica(seed, seed) for seed in range(seeds)),
            steps=steps,
            points=points,
            control=None if direction == length else Grafted(a if length == "a" else b, norm, scope),
        )
        for direction, length in ARMS
    ]
    results = run_trials(trials, sweep, "swap test")
    curves: dict[Arm, Curves] = {arm: Curves.from_dict(result) for arm, result in zip(ARMS, results, strict=True)}
    return judge_swap(problem.name, describe(a), describe(b), curves, loss_ceiling(problem), norm=norm, scope=scope)


def judge_swap(
    problem: str, a: str, b: str, curves: Mapping[Arm, Curves], ceiling: int | float, *, norm: Norm, scope: Scope
) -> SwapTest:
    """The test of four arms that have been trained; see `swap_test`.

    Example:
        >>> import torch
        >>> losses = {arm: torch.tensor([[1.0], [1.0]]).double() / 2**i for i, arm in enumerate(ARMS)}
        >>> curves = {arm: Curves((1,), each, None, True, "") for arm, each in losses.items()}
        >>> test = judge_swap("mine", "A", "B", curves, 1e3, norm="l2", scope="global")
        >>> round(test.length_share.mean, 3)  # the length halves the loss, the direction quarters it
        0.333
    """
    y = torch.stack([log_losses(curves[arm].losses, ceiling).mean(1) for arm in ARMS])
    effects = swap_effects(y.unflatten(0, (2, 2)))
    losses = {arm: each.losses for arm, each in curves.items()}
    total, length, direction, interaction = map(
        paired_interval, (effects.total, effects.length, effects.direction, effects.interaction)
    )
    share = ratio_interval(effects.length, effects.total)
    effects_told = (total, length, direction, interaction, share)
    diverged = sum(int((~(each <= ceiling)).any(1).sum()) for each in losses.values())
    steps = curves["a", "a"].steps
    return SwapTest(problem, a, b, y.shape[1], norm, scope, *effects_told, steps, losses, diverged)


def _signed(interval: Interval) -> str:
    """With the sign in front, also of a rise.

    Example:
        >>> _signed(Interval(0.5, 0.25, 0.75))
        '+0.5 [0.25, 0.75]'
    """
    return f"+{interval}" if interval.mean > 0 else str(interval)
