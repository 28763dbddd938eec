"""The trainings of a path test, as one trial."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from truestep.compare._factory import OptimizerFactory
from truestep.compare._run_trials import run_trials
from truestep.compare.problems import Problem
from truestep.compare.speed._fit import Fit
from truestep.compare.speed._path import PathTest, path_test
from truestep.compare.sweep import Sweep
from truestep.compare.training import Curves, Replica, train
from truestep.compare.training._probe import Probe

ORDERS: Final = 1000  # between the data orders of A, B and B again


def replicas(seeds: int, order: int, multiplier: float = 1.0) -> tuple[Replica, ...]:
    """One replica a seed, with data orders from `order` on."""
    return tuple(Replica(seed, order + seed, multiplier) for seed in range(seeds))


def path_trial(
    problem: Problem, a: OptimizerFactory, b: OptimizerFactory, seeds: int, multiplier: float, **settings: Any
) -> dict[str, Any]:
    """The path test, from runs that are trained for it: numbers alone, since paths are too large for a store."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        of_a = train(problem, a, [*replicas(seeds, 0), *replicas(seeds, 0, multiplier)], paths=True, **settings)
        of_b = train(problem, b, [*replicas(seeds, ORDERS), *replicas(seeds, 2 * ORDERS)], paths=True, **settings)
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


def trained_paths(
    problem: Problem,
    a: OptimizerFactory,
    b: OptimizerFactory,
    seeds: int,
    fit: Fit,
    settings: dict[str, Any],
    sweep: Sweep | None,
) -> PathTest:
    """The path test at the fitted multiplier, in a sweep or here."""
    trial = partial(
        path_trial, problem=problem, a=a, b=b, seeds=seeds, multiplier=float(f"{fit.multiplier.mean:.6g}"), **settings
    )
    return PathTest(**{name: float(value) for name, value in run_trials([trial], sweep, "path test")[0].items()})
