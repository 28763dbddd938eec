"""Each edge is where iterates on a parabola begin to grow: simulated with torch's own optimizers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD

from truestep.conditioning.curvature import edge


def grows(curvature: float, make: Callable[[Any], torch.optim.Optimizer]) -> bool:
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = make([w])
    for _ in range(400):
        optimizer.zero_grad()
        (curvature / 2 * w.square()).sum().backward()
        optimizer.step()
    return bool(w.detach().abs() > 1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.5, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.5},
    ],
)
def test_sgd_diverges_above_its_edge_and_not_below(settings: dict[str, Any]) -> None:
    limit = edge(0.1, **settings)
    assert grows(1.05 * limit, lambda p: SGD(p, lr=0.1, **settings))
    assert not grows(0.95 * limit, lambda p: SGD(p, lr=0.1, **settings))


def test_averaged_momentum_is_dampening_by_its_own_share() -> None:
    assert edge(0.1, 0.75, averaged=True) == edge(0.1, 0.75, dampening=0.75)
    assert edge(0.1, 0.75, averaged=True) == pytest.approx(2 * 1.75 / 0.25 / 0.1)


def test_without_momentum_there_is_nothing_to_dampen() -> None:
    assert edge(0.5, dampening=0.9) == edge(0.5) == 4.0


@pytest.mark.usefixtures("unchecked")
def test_what_has_no_edge_is_said() -> None:
    with pytest.raises(ValueError, match="`lr` must be positive, found 0"):
        edge(0)
    with pytest.raises(ValueError, match="`nesterov`"):
        edge(0.1, 0.9, nesterov=True, averaged=True)
