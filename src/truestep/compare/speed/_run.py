"""The speed test: what is trained for it, and in what order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch

from truestep.compare._ceiling import loss_ceiling
from truestep.compare._factory import OptimizerFactory, describe, largest_momentum, lr_of
from truestep.compare._run_trials import run_trials
from truestep.compare.problems import Problem
from truestep.compare.speed._judge import Runs, judge
from truestep.compare.speed._path_trial import ORDERS, replicas, trained_paths
from truestep.compare.speed._speed_test import SpeedTest
from truestep.compare.sweep import Sweep
from truestep.compare.training import Curves, train_trial
from truestep.compare.training._task import Schedule

Trial = partial[dict[str, Any]]

MULTIPLIERS: Final = tuple(10 ** (quarter / 4) for quarter in range(-4, 9))  # .1 to 100
PER_TRIAL: Final = 4  # multipliers that are trained as one stack
SPACINGS: Final = (1 / 16, 1 / 64)  # decades between the multipliers that are added around the nearest


def speed_test(
    problem: Problem,
    a: OptimizerFactory,
    b: OptimizerFactory,
    *,
    seeds: int = 8,
    steps: int | None = None,
    points: int = 30,
    margin: float | int = 0.05,
    multipliers: Sequence[float | int] | None = None,
    schedule: Schedule = "constant",
    lag: bool = True,
    path: bool = True,
    sweep: Sweep | None = None,
) -> SpeedTest:
    r"""Is B just A sped up? A's loss curves at many multiples of its lr, against B's.

    A is trained at the lrs :math:`c\,\eta_A`, its weight decay held; B and a second copy B' at B's own. Run i of each
    starts from the weights of seed i, and the data come in independent orders. With y the log of the mean loss on the
    probe, of A a cubic spline in log c and in t,

    .. math:: D(c, t_0)^2 = \operatorname{mean}_{t, s} \bigl(y_A(t - t_0; c) - y_B(t)\bigr)^2,
        \qquad \mathrm{floor}^2 = \operatorname{mean}_{t, s} (y_B - y_{B'})^2,

    and the multiplier is the c of the least D. Its interval, and D's, come from a calibrated bootstrap over seeds. B
    is A sped up if the whole interval of D is below the margin (5 % of the loss) or 1.5 floors, and DIFFERENT if it is
    above. A share of the gap that an lr "explains" is told, and decides nothing: between Adam and SGD with momentum on
    the digits it is .99, while the losses differ by 7 % (of standardized pixels, 20 %).

    Heavy-ball momentum starts late: its steps build up over :math:`\beta / (1-\beta)` steps. The lag :math:`t_0` is
    sought from 0 to the difference of the two optimizers' :math:`\beta / (1-\beta)`, below 0 where A has more momentum,
    and to half of the run at most; Adam's average, corrected for its start, has none. A lag that is free can make a
    pass of anything.

    Args:
        problem: What is trained.
        a: params -> optimizer, whose lr is varied; for a `sweep` a `functools.partial` of an importable name.
        b: The same, that is held against it.
        seeds: Runs of each, at least 2.
        steps: Length of a run; None for the problem's own.
        points: Evaluations, evenly spaced.
        margin: Distance that counts as equal, in nats.
        multipliers: Of A's lr, and 1; None for quarter decades from .1 to 100, with more around the nearest. Give finer
            ones where the loss depends steeply on lr, as near the largest at which A is stable: a spline rings there.
        schedule: Of all lrs over the run.
        lag: Seek a lag; False for none.
        path: Train A once more at the multiplier and compare the paths, of the probe's outputs or of few weights.
        sweep: Where the trials run and are kept; None for this process, nothing kept.

    Raises:
        ValueError: An argument is out of range, a loss is negative, B diverges, or A does at nearly every multiplier.
        ImportError: scipy is not installed.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from truestep.compare.problems import noisy_quadratic
        >>> slow, fast = partial(torch.optim.SGD, lr=1e-3), partial(torch.optim.SGD, lr=3e-3)
        >>> test = speed_test(noisy_quadratic(), slow, fast, seeds=2, steps=20, multipliers=[2, 4], path=False)
        >>> 2.5 < test.multiplier < 3.5
        True
    """
    if seeds < 2:
        raise ValueError(f"`seeds` must be at least 2 for an interval, found {seeds}")
    if not margin > 0:
        raise ValueError(f"`margin` must be above 0, found {margin}")
    settings = {"steps": steps, "points": points, "schedule": schedule}
    grid = checked_multipliers(MULTIPLIERS if multipliers is None else multipliers)
    trial = partial(train_trial, problem=problem, **settings)
    runs = _trained(trial, a, b, seeds, sweep)
    runs = _with(runs if lag else replace(runs, largest_lag=0.0), trial, a, grid, sweep)
    fit = runs.fit()
    for spacing in SPACINGS if multipliers is None else ():
        if grid[0] < fit.multiplier.mean < grid[-1]:
            runs = _with(runs, trial, a, between(fit.multiplier.mean, runs.multipliers, spacing), sweep)
            fit = runs.fit()
    paths = trained_paths(problem, a, b, seeds, fit, settings, sweep) if path else None
    return judge(runs, fit, margin, paths)


def checked_multipliers(multipliers: Sequence[float | int]) -> tuple[float, ...]:
    """The multipliers in rising order, once each, with 1 among them.

    Raises:
        ValueError: One is not positive and finite, or 1 is alone.

    Example:
        >>> checked_multipliers([10, 2])
        (1.0, 2.0, 10.0)
    """
    if not all(0 < each < math.inf for each in multipliers):
        raise ValueError(f"`multipliers` must be positive and finite, found {[*multipliers]}")
    found = tuple(sorted({1.0, *map(float, multipliers)}))
    if len(found) < 2:
        raise ValueError("`multipliers` must be one or more beside 1, found none")
    return found


def between(nearest: float | int, grid: Sequence[float], spacing: float | int) -> tuple[float, ...]:
    """The nearest multiplier and two on either side, `spacing` decades apart, but those that the grid has, or nearly.

    Near the lr where A no longer trains, a spline through quarter decades rings.

    Example:
        >>> [round(m, 2) for m in between(1.0, MULTIPLIERS, 1 / 16)]
        [0.75, 0.87, 1.15, 1.33]
        >>> [round(m, 2) for m in between(4.0, MULTIPLIERS, 1 / 16)]
        [3.46, 4.0, 4.62]
    """
    places = [math.log10(nearest) + by * spacing for by in range(-2, 3)]
    known = [math.log10(m) for m in grid]
    new = [x for x in places if known[0] < x < known[-1] and min(abs(x - y) for y in known) > spacing / 2.5]
    return tuple(float(f"{10**x:.6g}") for x in new)  # a last bit would be another trial


def largest_lag(a: OptimizerFactory, b: OptimizerFactory) -> float:
    r"""By how many steps B can be behind A, from the momenta: the difference of :math:`\beta / (1-\beta)`.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> plain, momentum = partial(torch.optim.SGD, lr=1.0), partial(torch.optim.SGD, lr=1.0, momentum=0.9)
        >>> round(largest_lag(plain, momentum), 6), round(largest_lag(momentum, plain), 6)
        (9.0, -9.0)
    """
    of_a, of_b = (beta / (1 - beta) if beta < 1 else 0.0 for beta in map(largest_momentum, (a, b)))
    return of_b - of_a


def within(lag: float | int, most: float | int) -> float:
    """A lag of no more steps than `most`, either way: of a shorter part of the curves, anything is the same.

    Example:
        >>> within(99, 50), within(-9, 50), within(-99, 50)
        (50.0, -9.0, -50.0)
    """
    return float(max(-most, min(most, lag)))


def _trained(trial: Trial, a: OptimizerFactory, b: OptimizerFactory, seeds: int, sweep: Sweep | None) -> Runs:
    """B and its copy, and what is to be known of both; of A nothing is trained yet."""
    problem: Problem = trial.keywords["problem"]
    both = partial(trial, optimizer=b, replicas=replicas(seeds, ORDERS) + replicas(seeds, 2 * ORDERS))
    curves = Curves.from_dict(*run_trials([both], sweep, f"speed test: {describe(b)}"))
    losses_b, losses_b_again = curves.losses.chunk(2)
    return Runs(
        problem=problem.name,
        a=describe(a),
        b=describe(b),
        lr_a=lr_of(a),
        lr_b=lr_of(b),
        largest_lag=within(largest_lag(a, b), curves.steps[-1] / 2),
        ceiling=loss_ceiling(problem),
        steps=curves.steps,
        multipliers=(),
        start=torch.tensor([problem.probe_loss(problem.build(seed)) for seed in range(seeds)], dtype=torch.float64),
        losses_a=losses_b.new_empty(0, *losses_b.shape),
        losses_b=losses_b,
        losses_b_again=losses_b_again,
    )


def _with(runs: Runs, trial: Trial, a: OptimizerFactory, multipliers: Sequence[float], sweep: Sweep | None) -> Runs:
    """A trained at these multipliers too."""
    if not multipliers:
        return runs
    seeds = len(runs.losses_b)
    parts = [multipliers[start : start + PER_TRIAL] for start in range(0, len(multipliers), PER_TRIAL)]
    of_a = [tuple(replica for m in part for replica in replicas(seeds, 0, m)) for part in parts]
    trials = [partial(trial, optimizer=a, replicas=each) for each in of_a]
    curves = map(Curves.from_dict, run_trials(trials, sweep, f"speed test: {runs.a}"))
    new = torch.cat([each.losses for each in curves]).unflatten(0, (len(multipliers), seeds))
    every = (*runs.multipliers, *multipliers)
    order = sorted(range(len(every)), key=every.__getitem__)
    return replace(runs, multipliers=tuple(every[i] for i in order), losses_a=torch.cat([runs.losses_a, new])[order])
