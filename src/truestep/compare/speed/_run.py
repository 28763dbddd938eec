"""The speed test: what is trained for it, and in what order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from truestep.compare._ceiling import loss_ceiling
from truestep.compare._factory import OptimizerFactory, describe, largest_momentum, lr_of
from truestep.compare._run_trials import run_trials
from truestep.compare.problems import Problem
from truestep.compare.speed._fit import Fit
from truestep.compare.speed._judge import Runs, judge
from truestep.compare.speed._path import PathTest, path_test
from truestep.compare.speed._speed_test import SpeedTest
from truestep.compare.sweep import Sweep
from truestep.compare.training import Curves, Replica, train, train_trial
from truestep.compare.training._probe import Probe
from truestep.compare.training._task import Schedule

MULTIPLIERS: Final = tuple(10 ** (quarter / 4) for quarter in range(-4, 9))  # .1 to 100
PER_TRIAL: Final = 4  # multipliers that are trained as one stack
ORDERS: Final = 1000  # between the data orders of A, B and B again


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
    above. A share of the gap that an lr "explains" is told, and decides nothing: between Adam and SGD with momentum it
    is .99, while the losses differ by a quarter.

    Heavy-ball momentum starts late: its steps build up over :math:`\beta / (1-\beta)` steps. The lag :math:`t_0` is
    sought from 0 to the difference of the two optimizers' :math:`\beta / (1-\beta)`, below 0 where A has more momentum;
    Adam's average, corrected for its start, has none. A lag that is free can make a pass of anything.

    Args:
        problem: What is trained.
        a: params -> optimizer, whose lr is varied; for a `sweep` a `functools.partial` of an importable name.
        b: The same, that is held against it.
        seeds: Runs of each, at least 2.
        steps: Length of a run; None for the problem's own.
        points: Evaluations, evenly spaced.
        margin: Distance that counts as equal, in nats.
        multipliers: Of A's lr; None for quarter decades from .1 to 100. 1 is added.
        schedule: Of all lrs over the run.
        lag: Seek a lag; False for none.
        path: Train A once more at the multiplier and compare the paths, of the probe's outputs or of few weights.
        sweep: Where the trials run and are kept; None for this process, nothing kept.

    Raises:
        ValueError: An argument is out of range, a loss is negative, or A diverges at nearly every multiplier.
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
    runs = _trained(problem, a, b, seeds, grid, settings, lag, sweep)
    fit = runs.fit()
    paths = _paths(problem, a, b, seeds, fit, settings, sweep) if path else None
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


def path_trial(
    problem: Problem, a: OptimizerFactory, b: OptimizerFactory, seeds: int, multiplier: float, **settings: Any
) -> dict[str, Any]:
    """The path test, from runs that are trained for it: numbers alone, since paths are too large for a store."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        of_a = train(problem, a, [*_replicas(seeds, 0), *_replicas(seeds, 0, multiplier)], paths=True, **settings)
        of_b = train(problem, b, [*_replicas(seeds, ORDERS), *_replicas(seeds, 2 * ORDERS)], paths=True, **settings)
    finally:
        torch.set_num_threads(threads)
    start = torch.stack([_place(problem, seed) for seed in range(seeds)]).unsqueeze(1)
    test = path_test(*(torch.cat([start, path], 1) for each in (of_a, of_b) for path in _paths_of(each)))
    found = {name: float(getattr(test, name)) for name in PathTest.__slots__}
    return {name: value if math.isfinite(value) else str(value) for name, value in found.items()}  # JSON has no nan


def _place(problem: Problem, seed: int) -> Float[Tensor, " d"]:
    """Where a path starts, as `train` notes the rest of it."""
    _, place = Probe(problem, paths=True).of(problem.build(seed))
    assert place is not None
    return place.cpu()


def _paths_of(curves: Curves) -> tuple[Tensor, ...]:
    assert curves.paths is not None
    return curves.paths.chunk(2)


def _replicas(seeds: int, order: int, multiplier: float = 1.0) -> tuple[Replica, ...]:
    return tuple(Replica(seed, order + seed, multiplier) for seed in range(seeds))


def _trained(
    problem: Problem,
    a: OptimizerFactory,
    b: OptimizerFactory,
    seeds: int,
    multipliers: tuple[float, ...],
    settings: dict[str, Any],
    lag: bool,
    sweep: Sweep | None,
) -> Runs:
    trial = partial(train_trial, problem=problem, **settings)
    parts = [multipliers[start : start + PER_TRIAL] for start in range(0, len(multipliers), PER_TRIAL)]
    of_a = [tuple(replica for m in part for replica in _replicas(seeds, 0, m)) for part in parts]
    trials = [partial(trial, optimizer=a, replicas=replicas) for replicas in of_a]
    trials.append(partial(trial, optimizer=b, replicas=_replicas(seeds, ORDERS) + _replicas(seeds, 2 * ORDERS)))
    *curves_a, curves_b = map(Curves.from_dict, run_trials(trials, sweep, "speed test"))
    losses_b, losses_b_again = curves_b.losses.chunk(2)
    return Runs(
        problem=problem.name,
        a=describe(a),
        b=describe(b),
        lr_a=lr_of(a),
        lr_b=lr_of(b),
        largest_lag=largest_lag(a, b) if lag else 0.0,
        ceiling=loss_ceiling(problem),
        steps=curves_b.steps,
        multipliers=multipliers,
        start=torch.tensor([problem.probe_loss(problem.build(seed)) for seed in range(seeds)], dtype=torch.float64),
        losses_a=torch.cat([each.losses for each in curves_a]).unflatten(0, (len(multipliers), seeds)),
        losses_b=losses_b,
        losses_b_again=losses_b_again,
    )


def _paths(
    problem: Problem,
    a: OptimizerFactory,
    b: OptimizerFactory,
    seeds: int,
    fit: Fit,
    settings: dict[str, Any],
    sweep: Sweep | None,
) -> PathTest:
    trial = partial(
        path_trial, problem=problem, a=a, b=b, seeds=seeds, multiplier=float(f"{fit.multiplier.mean:.6g}"), **settings
    )
    return PathTest(**{name: float(value) for name, value in run_trials([trial], sweep, "path test")[0].items()})
