"""The toy's chaos: each verdict from typed-in exponents, and the logarithms against plain numbers."""

from math import exp, hypot, log

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.toy_chaos import LRS, descend, judge, plot, run, start, underflows

KEYS = {"late": 0.5, "exponent": 2.0, "free_late": 1e-9, "underflows": 0.0, "lowest": -20.0}


def typed_in(**changed: float) -> list[Measurement]:
    one: Measurement = {}
    for name in LRS:
        one |= {f"{name}_{key}": changed.get(f"{key}_{name}", value) for key, value in KEYS.items()}
        one[f"{name}_curve"] = [-1.0, -2.0]
    return [one, one]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"exponent_1": 0.05}, Verdict.PARTLY),
        ({"late_0.01": 0.05}, Verdict.PARTLY),
        ({f"late_{name}": 0.05 for name in LRS}, Verdict.REFUTED),
        ({"free_late_0.1": 0.01}, Verdict.INCONCLUSIVE),
    ],
)
def test_every_lr_must_be_unstable_and_chaotic(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_an_exponent_that_crosses_the_bound_is_inconclusive() -> None:
    first, second = typed_in(**{"exponent_0.1": 0.0}), typed_in(**{"exponent_0.1": 0.3})
    assert judge([first[0], second[0]]).verdict is Verdict.INCONCLUSIVE


def plain(lr: float, decay: float, steps: int, at: tuple[float, float]) -> list[tuple[float, float]]:
    points, a = [at], 1 - lr * decay
    for _ in range(steps):
        x, y = points[-1]
        square = (x * x + y * y) ** 2
        points.append((a * x - lr * 2 * x * y * y / square, a * y + lr * 2 * y * x * x / square))
    return points


@pytest.mark.parametrize(("lr", "decay"), [(0.1, 0.5), (0.1, 0.0), (1.0, 0.5)])
def test_the_logarithms_follow_the_gradient_of_the_loss(lr: float, decay: float) -> None:
    losses = [log(x**2 / (x**2 + y**2)) for x, y in plain(lr, decay, 30, start(0))]
    assert descend(lr, decay, 31, start(0)).log_loss == pytest.approx(losses, rel=1e-7)


def test_the_exponent_is_the_growth_of_a_small_difference() -> None:
    x, y = start(3)
    one, other = (plain(0.1, 0.5, 40, at)[-1] for at in ((x, y), (x * (1 + 1e-9), y)))
    grown = hypot(*(log(abs(a / b)) for a, b in zip(one, other, strict=True))) / 1e-9
    assert grown > 100
    assert exp(40 * descend(0.1, 0.5, 40, (x, y)).exponent) == pytest.approx(grown, rel=1e-3)


def test_underflow_is_told_from_convergence() -> None:
    assert underflows(0.001, 0.5, 60_000, (1.0, 1.0))
    assert not underflows(0.1, 0.5, 10_000, (1.0, 1.0))


def test_a_short_run_comes_back_with_decay_and_not_without() -> None:
    measured = run(0, "cpu", factor=0.1)
    assert measured["0.1_late"] > 0.1
    assert measured["0.1_exponent"] > 1
    assert measured["0.1_free_late"] < 1e-3


def test_the_figure_has_a_dot_for_each_seed_and_lr() -> None:
    right = plot(typed_in()).axes[1]
    assert sum(len(line.get_xdata()) for line in right.lines[: len(LRS)]) == 2 * len(LRS)
