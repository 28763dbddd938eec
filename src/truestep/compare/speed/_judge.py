"""From trained runs to the result of a speed test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare.speed._fit import Fit, Grid, fit_speed, trained
from truestep.compare.speed._path import PathTest
from truestep.compare.speed._speed_test import SpeedTest, Verdict
from truestep.compare.statistics import log_losses

FLOORS: Final = 1.5  # so many floors count as equal, where the margin is less


@dataclass(frozen=True, slots=True)
class Runs:
    """What a speed test trains; run i of each has the weights of seed i, and the data come in other orders.

    Args:
        problem: Name of the problem.
        a: Optimizer A, as `describe` writes it.
        b: Optimizer B.
        lr_a: A's own lr.
        lr_b: B's.
        largest_lag: Up to which lag of B is looked for.
        ceiling: Where a run counts as diverged.
        steps: At which losses were read.
        multipliers: Of A's lr, rising, 1 among them.
        start: Losses before training.
        losses_a: Of A; inf or nan from where a run diverged, as the others.
        losses_b: Of B.
        losses_b_again: Of B with other orders of the data.
    """

    problem: str
    a: str
    b: str
    lr_a: float
    lr_b: float
    largest_lag: float
    ceiling: float
    steps: tuple[int, ...]
    multipliers: tuple[float, ...]
    start: Float64[Tensor, " seeds"]
    losses_a: Float64[Tensor, "multipliers seeds points"]
    losses_b: Float64[Tensor, "seeds points"]
    losses_b_again: Float64[Tensor, "seeds points"]

    def fit(self) -> Fit:
        """The multiplier and lag at which A comes nearest to B.

        Raises:
            ValueError: B diverges, or there are fewer than two multipliers at which A trains.
        """
        self._check_b()
        kept = trained(torch.where(self.losses_a <= self.ceiling, self.losses_a, torch.inf))
        if kept.stop - kept.start < 2:
            found = [f"{m:.3g}" for m in self.multipliers[kept]]
            raise ValueError(
                f"`multipliers` must be two neighbours or more at which no run of A diverges, found {found}"
            )
        start = self.start.expand(kept.stop - kept.start, -1).unsqueeze(-1)
        y = log_losses(torch.cat([start, self.losses_a[kept]], -1), self.ceiling)
        decades = torch.tensor(self.multipliers[kept], dtype=torch.float64).log10()
        b, again, one = (
            log_losses(each, self.ceiling)
            for each in (self.losses_b, self.losses_b_again, self.losses_a[self.multipliers.index(1.0)])
        )
        return fit_speed(Grid(y, decades, self.steps), b, again, at_one=one, largest_lag=self.largest_lag)

    def moved(self) -> float:
        """By how much B's log loss changes from the start on, mean over seeds."""
        y = log_losses(torch.cat([self.start.unsqueeze(-1), self.losses_b], -1), self.ceiling)
        return float((y.amax(-1) - y.amin(-1)).mean())

    def _check_b(self) -> None:
        """A run at the ceiling would make a floor above which all is equal, and two that diverge the same."""
        runs = torch.cat([self.losses_b, self.losses_b_again])
        diverged = int((~(runs <= self.ceiling)).any(1).sum())
        if diverged:
            raise ValueError(
                f"`b` must train at its own lr, found {diverged} of {len(runs)} runs of {self.b} diverged (above "
                f"{self.ceiling:.3g}, 1000 times the loss at the start): lower its lr"
            )


def judge(runs: Runs, fit: Fit, margin: float | int, path: PathTest | None = None) -> SpeedTest:
    """The speed test of these runs.

    Args:
        runs: What was trained.
        fit: Of the same runs.
        margin: What counts as equal, in nats; 1.5 floors do in any case.
        path: The path test, if there was one.
    """
    threshold = max(float(margin), FLOORS * fit.floor)
    test = SpeedTest(
        problem=runs.problem,
        a=runs.a,
        b=runs.b,
        lr_a=runs.lr_a,
        lr_b=runs.lr_b,
        seeds=len(runs.losses_b),
        steps=runs.steps,
        multiplier=fit.multiplier.mean,
        interval=(fit.multiplier.low, fit.multiplier.high),
        lag=fit.lag,
        largest_lag=runs.largest_lag,
        residual=fit.residual.mean,
        residual_interval=(fit.residual.low, fit.residual.high),
        residual_at_one=fit.at_one.mean,
        floor=fit.floor,
        threshold=threshold,
        explained=fit.explained,
        early=fit.early,
        late=fit.late,
        path=path,
        verdict=verdict(fit, threshold),
        multipliers=runs.multipliers,
        losses_a=runs.losses_a,
        losses_b=runs.losses_b,
        losses_b_again=runs.losses_b_again,
        fitted=fit.fitted.exp(),
        moved=runs.moved(),
    )
    equal = test.verdict in ("SAME", "SPED-UP")
    return replace(test, verdict="UNDECIDED") if equal and test.hardly_moved else test


def verdict(fit: Fit, threshold: float | int) -> Verdict:
    """SAME and SPED-UP where the whole interval of the distance is below the threshold, DIFFERENT where it is above."""
    if fit.at_one.high < threshold:
        return "SAME"
    if fit.at_edge:
        return "UNBOUNDED"
    if fit.residual.high < threshold:
        return "SPED-UP"
    return "DIFFERENT" if fit.residual.low > threshold else "UNDECIDED"
