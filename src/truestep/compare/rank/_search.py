"""The runs of a ranking: every optimizer under every protocol, on grids that grow until the best lies within."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from jaxtyping import Float64
from torch import Tensor

from truestep.compare._run_trials import run_trials
from truestep.compare.rank._grid import beyond
from truestep.compare.statistics import log_losses
from truestep.compare.sweep import Sweep
from truestep.compare.training import Curves, Replica

ROUNDS: Final = 4  # times that a grid may grow

Key = TypeVar("Key")
Found = dict[float, Float64[Tensor, "seeds 2"]]
"""Losses at half of training and at its end, of each multiplier."""


@dataclass(frozen=True, slots=True)
class Search:
    """How a grid is gone through.

    Args:
        seeds: Runs of each value.
        first: Multipliers tried in any case.
        grows: Whether others are added past an edge.
        ceiling: A loss above it counts as diverged.
    """

    seeds: int
    first: tuple[float, ...]
    grows: bool
    ceiling: float

    def run(self, trials: Mapping[Key, partial[dict[str, Any]]], sweep: Sweep | None) -> dict[Key, Found]:
        """Losses of every arm; an arm is a trial that lacks its replicas, and all values of a round are one trial."""
        found: dict[Key, Found] = {key: {} for key in trials}
        wanted = dict.fromkeys(trials, self.first)
        for _ in range(1 + ROUNDS):
            ready = [partial(trials[key], replicas=self.replicas(values)) for key, values in wanted.items()]
            results = run_trials(ready, sweep, "ranking")
            for (key, values), result in zip(wanted.items(), results, strict=True):
                losses = Curves.from_dict(result).losses.unflatten(0, (len(values), self.seeds))
                found[key] = dict(sorted({**found[key], **dict(zip(values, losses, strict=True))}.items()))
            wanted = {key: more for key in wanted if (more := self.more(found[key]))}
            if not wanted:
                break
        return found

    def replicas(self, values: Sequence[float]) -> tuple[Replica, ...]:
        """Every seed at every value; a seed has the same weights and the same order of the data everywhere."""
        return tuple(Replica(seed, seed, value) for value in values for seed in range(self.seeds))

    def more(self, found: Found) -> tuple[float, ...]:
        """What to try next."""
        if not self.grows:
            return ()
        return beyond(tuple(found), [float(log_losses(each[:, -1], self.ceiling).mean()) for each in found.values()])
