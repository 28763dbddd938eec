"""What the time scales of an equilibrium mean for a run of so many steps."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf, isnan

from truestep.invariance._equilibrium import GroupEquilibrium

SETTLED = 3  # norm times: what is left of a distance is e**-3, 5 %
APPROXIMATE = "Approximate: Lion steps by a sign, and its equilibrium is that of isotropic Gaussian gradients."


def time_scales(group: GroupEquilibrium, steps: int) -> TimeScales:
    """The times of a group's scale-invariant weights, in steps and as shares of a run of `steps` steps.

    Args:
        group: One of `equilibrium(optimizer).groups`, with one number a setting.
        steps: Optimizer steps of the whole run.

    Raises:
        ValueError: If `steps` is not positive, or the group holds several blocks' settings.

    Example:
        >>> from truestep.invariance._rule import Rule
        >>> rule = Rule("adam", lr=1e-3, weight_decay=0.1, momentum=0.9, decoupled=True)
        >>> times = time_scales(GroupEquilibrium(rule), steps=2000)
        >>> round(times.norm), round(times.direction), round(times.share(times.direction), 2)
        (5000, 10000, 5.0)
        >>> print(times.sentences[2])
        Norm time: 5,000 steps, 2.5 times your run of 2,000, longer than your run: weight decay has not acted yet.
    """
    if steps < 1:
        msg = f"`steps` must be the positive number of steps of the run, found {steps}"
        raise ValueError(msg)
    times = group.buffer_time, group.norm_time, group.direction_time
    if any(time.dim() for time in times):
        msg = f"`group` must have one number a setting, found {tuple(times[-1].shape)}: ask for each block by itself"
        raise ValueError(msg)
    return TimeScales(steps, float(group.rate), *map(float, times), idle=group.idle, approximate=group.approximate)


@dataclass(frozen=True, slots=True)
class TimeScales:
    """Intrinsic lr and the three times it sets.

    Args:
        steps: Steps of the run.
        intrinsic_lr: What decay takes of the weight a step; with coupled decay over 1 - momentum. 0 without decay, nan
            where the gradient's size is needed and not given.
        buffer: Steps for which a gradient stays in the step.
        norm: Steps in which the norm's distance from equilibrium falls by a factor e.
        direction: Steps in which the direction forgets where it was, by a factor e.
        idle: Whether the lr is 0: nothing moves.
        approximate: Whether the times need more than the random walk: those of Lion.
    """

    steps: int
    intrinsic_lr: float
    buffer: float
    norm: float
    direction: float
    idle: bool = False
    approximate: bool = False

    def share(self, time: float) -> float:
        """A time as a share of the run; 1 is the whole of it."""
        return time / self.steps

    @property
    def sentences(self) -> tuple[str, ...]:
        """What each number means for this run: intrinsic lr, buffer, norm and direction, one sentence each.

        Norm and direction have none where no time is known or nothing decays; approximate times have one more.
        """
        buffer = f"Buffer time: {_said(self.buffer, self.steps)}: {self._buffer_meaning()}."
        if self.idle:
            return "Intrinsic lr: 0, lr is 0: nothing moves, norms and directions stay what they are.", buffer
        if self.intrinsic_lr == 0:
            grows = "no weight decay: the norm of scale-invariant weights grows without end, their effective lr falls"
            return f"Intrinsic lr: 0, {grows}.", buffer
        if isnan(self.intrinsic_lr):
            needs = "it depends on the size of the gradient under Adam with coupled decay; measure that first"
            return f"Intrinsic lr: not known, {needs}.", buffer
        return (
            f"Intrinsic lr: {self.intrinsic_lr:.3g} a step, {self.intrinsic_lr * self.steps:.3g} over your run: "
            "runs with the same one learn scale-invariant weights at the same speed once their norms have settled.",
            buffer,
            f"Norm time: {_said(self.norm, self.steps)}, {self._norm_meaning()}.",
            f"Direction memory: {_said(self.direction, self.steps)}, {self._direction_meaning()}.",
            *([APPROXIMATE] if self.approximate else []),
        )

    def _buffer_meaning(self) -> str:
        if self.norm < self.buffer:
            return "longer than the norm time, which is then no more than an order of magnitude"
        return "how long a gradient stays in the step"

    def _norm_meaning(self) -> str:
        if self.norm > self.steps:
            return "longer than your run: weight decay has not acted yet"
        if SETTLED * self.norm > self.steps:
            return "shorter than your run by too little: the norms are still on their way at its end"
        return (
            f"shorter than your run: the norms have settled after {100 * self.share(SETTLED * self.norm):.0f} % of it"
        )

    def _direction_meaning(self) -> str:
        if self.direction > self.steps:
            return "longer than your run: the directions still remember the initialization at its end"
        return "shorter than your run: what the directions knew before that many steps is forgotten"


def _said(time: float, steps: int) -> str:
    """A time in steps and in terms of the run."""
    if isinf(time):
        return "endless"
    share = time / steps
    part = f"{share:.3g} times" if share > 1 else f"{100 * share:.2g} % of" if share < 0.995 else "all of"
    return f"{time:,.0f} step{'s' if round(time) != 1 else ''}, {part} your run of {steps:,}"
