"""The scale-invariant loss x²/(x²+y²): chaos under decay, convergence without, and underflow that looks like it."""

from __future__ import annotations

from itertools import pairwise
from math import exp, hypot, inf, log

import pytest
import torch

from truestep.core import gram
from truestep.invariance import effective_lr
from truestep.invariance._growth import sgd_squared_norm_after

Point = tuple[float, float]
DECAYS = [(0.1, 0.5), (0.5, 0.5), (0.1, 0.1), (0.01, 0.5)]  # lr, weight decay


def loss(at: Point) -> float:
    x, y = at
    return x**2 / (x**2 + y**2)


def gradient(at: Point) -> Point:
    x, y = at
    squared = x**2 + y**2
    return 2 * x * y**2 / squared**2, -2 * y * x**2 / squared**2


def descend(lr: float, weight_decay: float, steps: int, start: Point = (1.0, 1.0)) -> list[Point]:
    """Full-batch gradient descent, all points with the start."""
    points, a = [start], 1 - lr * weight_decay
    for _ in range(steps):
        (x, y), (gx, gy) = points[-1], gradient(points[-1])
        points.append((a * x - lr * gx, a * y - lr * gy))
    return points


def log_losses(lr: float, weight_decay: float, steps: int) -> list[float]:
    """The logarithm of the loss along the same descent, with x and y kept as logarithms: nothing underflows."""
    x, y, a, found = 0.0, 0.0, 1 - lr * weight_decay, []
    for _ in range(steps):
        ratio = exp(min(2 * (x - y), 700.0))  # (x/y)²
        found.append(2 * (x - y) - log(1 + ratio))
        factor = 2 * lr * exp(-2 * y) / (1 + ratio) ** 2  # 2 lr y² / |w|⁴
        x, y = x + log(max(abs(a - factor), 1e-300)), y + log(a + factor * ratio)
    return found


def is_stable(at: Point, lr: float) -> bool:
    """Whether the minimum that the direction has come to holds it: lr times the loss's curvature 2/|w|² is below 2."""
    w = torch.tensor(at, dtype=torch.float64)
    return float(effective_lr(gram(w, w, w), lr)) < 1


def test_the_descent_is_that_of_torch() -> None:
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, weight_decay=0.5)
    for point in descend(0.1, 0.5, 50):
        assert w.tolist() == pytest.approx(point, rel=1e-9)
        optimizer.zero_grad()
        (w[0] ** 2 / (w**2).sum()).backward()
        optimizer.step()


def test_its_norm_is_foretold_at_every_step_of_the_chaos_too() -> None:
    for before, after in pairwise(descend(0.1, 0.5, 300)):
        w, g = torch.tensor([before, gradient(before)], dtype=torch.float64)
        record = gram(w, g, torch.tensor(after, dtype=torch.float64) - w)
        assert float(sgd_squared_norm_after(record, 0.1, 0.5)) == pytest.approx(hypot(*after) ** 2, rel=1e-12)


@pytest.mark.parametrize(("lr", "weight_decay"), DECAYS)
def test_with_decay_the_loss_comes_back_for_ever(lr: float, weight_decay: float) -> None:
    losses = [loss(point) for point in descend(lr, weight_decay, 20_000)]
    assert min(losses) > 1e-300  # no underflow: the squares of doubles hold it all
    best = min(losses[:10_000])
    for late in (losses[10_000:15_000], losses[15_000:]):
        assert max(late) > 0.2
        assert min(late) < 0.1
    assert max(losses[losses.index(best) :]) > 1e4 * best


def test_with_decay_two_starts_a_billionth_apart_part_ways_and_without_they_come_together() -> None:
    def gaps(weight_decay: float) -> list[float]:
        first = descend(0.1, weight_decay, 1000)[-1]
        ways = (descend(0.1, weight_decay, 1000, at) for at in (first, (first[0] * (1 + 1e-9), first[1])))
        return [abs(loss(one) - loss(other)) for one, other in zip(*ways, strict=True)]

    chaotic = gaps(0.5)
    assert chaotic[0] < 1e-9
    assert max(chaotic) > 1e-2
    assert max(gaps(0.0)) < 1e-9


def test_without_decay_it_converges_and_the_minimum_holds_it() -> None:
    points = descend(0.1, 0.0, 3000)
    losses = [loss(point) for point in points]
    assert all(after < before for before, after in pairwise(losses[5:]))
    assert 0 < losses[-1] < 1e-200
    norms = [hypot(*point) for point in points]
    assert all(after > before * (1 - 1e-15) for before, after in pairwise(norms))  # it never shrinks
    assert norms[-1] == pytest.approx(norms[500], rel=1e-12)
    assert is_stable(points[-1], 0.1)


def test_a_loss_of_exactly_zero_is_convergence_where_the_minimum_is_stable_and_underflow_where_it_is_not() -> None:
    converged, fallen = descend(0.1, 0.0, 5000)[-1], descend(0.01, 0.05, 20_000)[-1]
    assert loss(converged) == loss(fallen) == 0.0  # in float64 both look the same: the square of x has underflowed
    assert is_stable(converged, 0.1)
    assert not is_stable(fallen, 0.01)
    assert (
        abs(fallen[0]) < 1e-320
    )  # x is at the end of the doubles, its gradient's x y² beyond it: nothing brings it back


def test_kept_as_logarithms_the_converged_one_goes_on_falling_and_the_underflown_one_comes_back() -> None:
    falling = log_losses(0.1, 0.0, 20_000)
    assert falling[-1] < 4.9 * falling[4000] < -4000  # a straight line, far beyond what a double holds
    assert all(after < before for before, after in pairwise(falling[5:]))
    returning = log_losses(0.01, 0.05, 40_000)
    assert min(returning) < log(5e-324)  # where float64 says 0
    assert max(returning[returning.index(min(returning)) :]) > log(0.1)


@pytest.mark.parametrize(("lr", "weight_decay"), [(0.1, 0.5), (0.1, 0.0)])
def test_the_logarithms_tell_the_same_story_where_both_can(lr: float, weight_decay: float) -> None:
    plain = [log(loss(point)) for point in descend(lr, weight_decay, 100)]
    assert log_losses(lr, weight_decay, 101) == pytest.approx(plain, rel=1e-7)
    assert inf not in plain
