"""Whether an optimizer is another one sped up: the result of a speed test, and its sentence."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from jaxtyping import Float64
from torch import Tensor

from truestep.compare.speed._path import PathTest

TOO_LITTLE: Final = 3  # thresholds that B's log loss must change by, or a curve is like A's at any lr

Verdict = Literal["SAME", "SPED-UP", "DIFFERENT", "UNDECIDED", "UNBOUNDED"]


@dataclass(frozen=True, slots=True)
class SpeedTest:
    """How near optimizer A, at another lr, comes to optimizer B; distances are in nats of the loss, .05 being 5 %.

    Args:
        problem: Name of the problem.
        a: Optimizer A, "Adam(lr=0.001)".
        b: Optimizer B.
        lr_a: A's own lr.
        lr_b: B's.
        seeds: Runs of each.
        steps: At which the curves were read.
        multiplier: Factor on A's lr that comes nearest to B.
        interval: The multiplier's 95 % interval.
        lag: By how many steps B is behind such an A; less than 0, ahead.
        largest_lag: What the lag was sought up to, from 0: the difference of the momenta's b/(1-b), half of the run at
            most.
        residual: Distance left at that multiplier and lag, root mean square over seeds and points.
        residual_interval: Its 95 % interval.
        residual_at_one: Distance at A's own lr, no lag.
        floor: Distance between two copies of B whose data come in other orders.
        threshold: The margin, or 1.5 floors where that is more: what counts as equal.
        explained: Share of the squared distance at A's own lr, floor off, that the multiplier takes away. Near one for
            optimizers that differ by far: never decisive. nan where there is nothing to explain.
        early: Signed mean of log A - log B over the first half of the points, in nats.
        late: Over the second half.
        path: Whether they walk one path; None where it was not asked for.
        verdict: SAME: equal at A's own lr. SPED-UP: equal at the multiplier. DIFFERENT: surely not equal at any.
            UNDECIDED: the seeds do not tell, or B has hardly begun to train, see `moved`. UNBOUNDED: the best
            multiplier is the first or last that A trains at.
        multipliers: Those that A was trained at.
        losses_a: A's losses on the probe, inf from where a run diverged.
        losses_b: B's.
        losses_b_again: Of B's second copy.
        fitted: A's losses at the fitted multiplier and lag, from the spline.
        moved: By how much B's log loss changes from the start on, mean over seeds, in nats. Less than 3 thresholds
            make no verdict of equality.
    """

    problem: str
    a: str
    b: str
    lr_a: float
    lr_b: float
    seeds: int
    steps: tuple[int, ...]
    multiplier: float
    interval: tuple[float, float]
    lag: float
    largest_lag: float
    residual: float
    residual_interval: tuple[float, float]
    residual_at_one: float
    floor: float
    threshold: float
    explained: float
    early: float
    late: float
    path: PathTest | None
    verdict: Verdict
    multipliers: tuple[float, ...]
    losses_a: Float64[Tensor, "multipliers seeds points"]
    losses_b: Float64[Tensor, "seeds points"]
    losses_b_again: Float64[Tensor, "seeds points"]
    fitted: Float64[Tensor, "seeds points"]
    moved: float = math.inf

    @property
    def hardly_moved(self) -> bool:
        """Whether B's loss changes so little that a curve like it is equal to it at almost any lr."""
        return math.isfinite(self.threshold) and self.moved < TOO_LITTLE * self.threshold

    @property
    def sentence(self) -> str:
        """What a reader needs: "AdaBelief at lr 0.001 is Adam at lr 0.00157 to within 3 % of the loss"."""
        a, b = without_lr(self.a), f"{without_lr(self.b)} at lr {self.lr_b:.3g}"
        lr, left, needed = f"{self.lr_a * self.multiplier:.3g}", percent(self.residual), percent(self.threshold)
        low, high = (percent(end) for end in self.residual_interval)
        match self.verdict:
            case "SAME":
                left = percent(self.residual_at_one)
                return f"{b} is {a} at lr {self.lr_a:.3g} to within {left} of the loss{self._path_words()}"
            case "SPED-UP":
                return f"{b} is {a} at lr {lr}{self._lag_words()} to within {left} of the loss{self._path_words()}"
            case "DIFFERENT":
                return f"{b} is not {a} at another lr: at the nearest, {lr}, {left} of the loss stay between them"
            case "UNDECIDED" if self.hardly_moved and self.residual_interval[0] <= self.threshold:
                return (
                    f"{b} changes the loss by {percent(self.moved)} in {self.steps[-1]} steps: "
                    f"too little to tell it from {a} at many lrs; take more steps"
                )
            case "UNDECIDED":
                return (
                    f"{self.seeds} seeds do not tell whether {b} is {a} at lr {lr}: "
                    f"{left} [{low}, {high}] of the loss stay between them, {needed} would count as none"
                )
            case "UNBOUNDED":
                ends = " to ".join(f"{self.lr_a * m:.3g}" for m in (self.multipliers[0], self.multipliers[-1]))
                return f"no lr of {a} is nearest to {b}: of {ends}, and where it trains, the best is at the end, {lr}"

    def _lag_words(self) -> str:
        steps = round(abs(self.lag))
        if not steps:
            return ""
        return f", {steps} step{'s' * (steps > 1)} {'behind' if self.lag > 0 else 'ahead'},"

    def _path_words(self) -> str:
        """Equal losses on another path are another solution."""
        if self.path is None:
            return ""
        apart = self.path.distance_at_one if self.verdict == "SAME" else self.path.distance
        if not apart > max(2 * self.path.floor, 0.02):
            return ""
        return f", on a path {100 * apart:.0f} % of its length away"

    def __str__(self) -> str:
        low, high = self.interval
        lines = {
            "verdict": f"{self.verdict}: {self.sentence}",
            "problem": f"{self.problem}, {self.steps[-1]} steps, {self.seeds} seeds",
            "multiplier": f"{self.multiplier:.3g} [{low:.3g}, {high:.3g}]",
            "lag": f"{self.lag:.2g} steps (sought up to {self.largest_lag:.2g})",
            "residual": "{:.3f} [{:.3f}, {:.3f}] nats".format(self.residual, *self.residual_interval),
            "at A's own lr": f"{self.residual_at_one:.3f} nats",
            "floor": f"{self.floor:.3f} nats; {self.threshold:.3f} counts as equal",
            "signed": f"{self.early:+.3f} nats in the first half, {self.late:+.3f} in the second",
            "explained": "nothing to explain" if math.isnan(self.explained) else f"{self.explained:.1%}",
            "path": "not asked for" if self.path is None else str(self.path),
        }
        return "\n".join(f"{name:<14} {line}" for name, line in lines.items())


def without_lr(optimizer: str) -> str:
    """An optimizer's name without its lr.

    Example:
        >>> without_lr("Adam(lr=0.001)"), without_lr("SGD(lr=0.1, momentum=0.9)"), without_lr("SGD(momentum=0.9, lr=1)")
        ('Adam', 'SGD(momentum=0.9)', 'SGD(momentum=0.9)')
    """
    return re.sub(r"\blr=[^,()]*(?:, )?", "", optimizer).replace(", )", ")").removesuffix("()")


def percent(nats: float) -> str:
    """A distance between log losses as a share of the loss.

    Example:
        >>> percent(0.03), percent(0.5), percent(0.004), percent(-0.01), percent(9.0)
        ('3 %', '65 %', '0.4 %', '0 %', 'more than 900 %')
    """
    share = 100 * math.expm1(min(max(nats, 0.0), 700.0))
    if share > 900:
        return "more than 900 %"
    return f"{share:.0f} %" if share >= 1 or share < 1e-3 else f"{share:.1g} %"
