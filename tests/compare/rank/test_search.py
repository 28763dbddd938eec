import math
from functools import partial
from typing import Any

import torch

from truestep.compare.rank._grid import half_decades
from truestep.compare.rank._search import Search
from truestep.compare.sweep import Sweep
from truestep.compare.training import Curves, Replica


def parabola(optimum: float, replicas: tuple[Replica, ...]) -> dict[str, Any]:
    """Log loss: a tenth of (decades from the optimum)^2, and 0.1 a seed; from three decades above it, divergence."""
    decades = [math.log10(each.multiplier) - optimum for each in replicas]
    logs = [x * x / 10 + 0.1 * each.seed if x < 3 else math.inf for x, each in zip(decades, replicas, strict=True)]
    losses = torch.tensor([[1.0, math.exp(x)] for x in logs], dtype=torch.float64)
    return Curves((1, 2), losses, None, True, "").as_dict()


def search(*optima: float, grows: bool = True) -> dict[float, dict[float, torch.Tensor]]:
    with Sweep(workers=0, progress=False) as sweep:
        trials = {optimum: partial(parabola, optimum) for optimum in optima}
        return Search(2, half_decades(-3, 3), grows, ceiling=1e3).run(trials, sweep)


def test_grids_grow_to_where_the_best_lies_within_each_by_itself() -> None:
    found = search(0.0, 3.0, -2.5)
    assert tuple(found[0.0]) == half_decades(-3, 3)
    assert tuple(found[3.0]) == half_decades(-3, 7)
    assert tuple(found[-2.5]) == half_decades(-7, 3)


def test_each_value_has_its_own_losses() -> None:
    losses = search(1.0)[1.0]
    torch.testing.assert_close(losses[10.0][:, 1].log(), torch.tensor([0.0, 0.1]).double())
    torch.testing.assert_close(losses[0.1][:, 1].log(), torch.tensor([0.4, 0.5]).double())
    assert losses[10.0][:, 0].tolist() == [1.0, 1.0]


def test_divergence_stops_the_growth() -> None:
    assert max(search(-2.0)[-2.0]) == half_decades(3, 3)[0]
    assert math.isinf(search(-2.0)[-2.0][10.0][0, 1])


def test_an_optimum_out_of_reach_ends_the_search() -> None:
    assert tuple(search(8.0)[8.0]) == half_decades(-3, 11)


def test_a_given_grid_stays_as_it_is() -> None:
    assert tuple(search(3.0, grows=False)[3.0]) == half_decades(-3, 3)
