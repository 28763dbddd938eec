"""Verdicts from intervals, and from runs to a result."""

import math
from dataclasses import replace

import pytest
import torch

from truestep.compare.speed import PathTest
from truestep.compare.speed._fit import Fit
from truestep.compare.speed._judge import Runs, judge, verdict
from truestep.compare.statistics import Interval

STEPS = tuple(range(10, 210, 10))
MULTIPLIERS = tuple(10 ** (k / 4) for k in range(-4, 9))


def fit(*, residual: tuple[float, float], at_one: tuple[float, float] = (1.0, 2.0), at_edge: bool = False) -> Fit:
    middle = Interval(2.0, 1.9, 2.1)
    left, one = (Interval(sum(ends) / 2, *ends) for ends in (residual, at_one))
    return Fit(middle, 0.0, left, one, 0.01, 1.0, 0.0, 0.0, at_edge, torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (fit(residual=(0.02, 0.04)), "SPED-UP"),
        (fit(residual=(0.06, 0.08)), "DIFFERENT"),
        (fit(residual=(0.04, 0.06)), "UNDECIDED"),
        (fit(residual=(0.02, 0.04), at_edge=True), "UNBOUNDED"),
        (fit(residual=(0.06, 0.08), at_edge=True), "UNBOUNDED"),
        (fit(residual=(0.02, 0.04), at_one=(0.02, 0.049)), "SAME"),
        (fit(residual=(0.02, 0.04), at_one=(0.02, 0.049), at_edge=True), "SAME"),
        (fit(residual=(0.02, 0.04), at_one=(0.02, 0.051)), "SPED-UP"),
    ],
)
def test_a_verdict_needs_its_whole_interval_on_one_side(found: Fit, expected: str) -> None:
    assert verdict(found, 0.05) == expected


def runs(speed: float = 3.0, lift: float = 0.0, seeds: int = 4) -> Runs:
    """A loss that depends on lr x steps alone; B's is that of A at `speed`, lifted by `lift` nats late in the run."""
    level = [[math.exp(-1.2 * math.log1p(t * m / 50)) for t in STEPS] for m in (*MULTIPLIERS, speed)]
    losses = torch.tensor(level, dtype=torch.float64)[:, None].repeat(1, seeds, 1)
    b = losses[-1] * torch.where(torch.arange(len(STEPS)) < 10, 1.0, math.exp(lift))
    start = torch.ones(seeds, dtype=torch.float64)
    return Runs("toy", "A(lr=0.1)", "B", 0.1, 1.0, 0.0, 1e3, STEPS, MULTIPLIERS, start, losses[:-1], b, b * 1.02)


def test_a_result_tells_what_was_fitted() -> None:
    given, path = runs(3.0), PathTest(0.3, 0.01, 0.02)
    test = judge(given, given.fit(), 0.05, path)
    assert test.verdict == "SPED-UP"
    assert test.multiplier == pytest.approx(3.0, rel=2e-3)
    assert test.floor == pytest.approx(math.log(1.02))
    assert test.threshold == 0.05
    torch.testing.assert_close(test.fitted, given.losses_b, rtol=2e-3, atol=0)
    assert (test.seeds, test.steps, test.path, test.lag) == (4, STEPS, path, 0.0)


def test_one_and_a_half_floors_count_as_equal() -> None:
    given = runs(3.0)
    assert judge(given, given.fit(), 0.01).threshold == pytest.approx(1.5 * math.log(1.02))


def test_the_same_optimizer_is_the_same() -> None:
    given = runs(1.0)
    assert judge(given, given.fit(), 0.05).verdict == "SAME"


def test_a_loss_that_hardly_moves_is_no_proof_of_equality() -> None:
    given = runs(1.0)  # B falls by 1.9 nats from its start: less than three of a margin of 1
    test = judge(given, given.fit(), 1.0)
    assert (test.verdict, test.hardly_moved) == ("UNDECIDED", True)
    assert judge(given, given.fit(), 0.5).verdict == "SAME"


def test_what_was_gained_before_the_first_point_counts() -> None:
    given = runs(1.0)
    flat = replace(given, losses_b=given.losses_b[..., -1:].expand_as(given.losses_b) + 0.0)
    assert judge(flat, given.fit(), 0.05).moved == pytest.approx(-math.log(float(given.losses_b[0, -1])))


def test_one_that_hardly_moves_can_still_be_different() -> None:
    given = runs(1.0)
    apart = Interval(1.3, 1.2, 1.4)
    test = judge(given, replace(given.fit(), residual=apart, at_one=apart), 1.0)
    assert (test.verdict, test.hardly_moved) == ("DIFFERENT", True)


def test_a_loss_that_turns_off_late_is_different_whatever_is_explained() -> None:
    given = runs(30.0, lift=0.5)
    test = judge(given, given.fit(), 0.05)
    assert test.verdict == "DIFFERENT"
    assert test.explained > 0.98
    assert test.early < 0 or test.late < 0


def test_a_run_that_diverges_takes_its_multiplier_out() -> None:
    given = runs(3.0)
    given.losses_a[-2, 1, 5:] = math.inf  # at a multiplier of 56
    given.losses_a[-1, 0, -1] = 1.1e3  # over the ceiling
    test = judge(given, given.fit(), 0.05)
    assert test.multiplier == pytest.approx(3.0, rel=2e-3)


def test_a_best_multiplier_beside_one_that_diverges_is_unbounded() -> None:
    given = runs(30.0)
    given.losses_a[-3:, 1, -1] = math.inf  # from 31.6 on
    assert judge(given, given.fit(), 0.05).verdict == "UNBOUNDED"


@pytest.mark.parametrize("late", [math.inf, math.nan, 1.1e3])
def test_b_that_diverges_is_refused_as_no_curve_to_come_near(late: float) -> None:
    given = runs()
    given.losses_b_again[1, 5:] = late
    with pytest.raises(ValueError, match="`b` must train at its own lr, found 1 of 8 runs of B diverged"):
        given.fit()


def test_two_that_diverge_are_not_the_same() -> None:
    given = runs(1.0)
    for each in (given.losses_a[4:], given.losses_b, given.losses_b_again):
        each[..., 2:] = math.inf
    with pytest.raises(ValueError, match="found 8 of 8 runs"):
        given.fit()


def test_a_loss_that_ends_at_zero_is_fitted_and_one_below_refused() -> None:
    given = runs(3.0)
    for each in (given.losses_a, given.losses_b, given.losses_b_again):
        each[each < 0.02] = 0.0  # as a function of two variables may
    test = judge(given, given.fit(), 0.05)
    assert test.multiplier == pytest.approx(3.0, rel=0.1)  # the spline cannot follow the fall
    assert test.fitted.isfinite().all()
    given.losses_b[0, 0] = -1.0
    with pytest.raises(ValueError, match="`losses` must not be negative for a log scale, found -1"):
        given.fit()


def test_a_that_trains_nowhere_is_refused() -> None:
    given = runs()
    given.losses_a[1:] = math.inf
    with pytest.raises(ValueError, match=r"`multipliers` must be two neighbours .* found \['0.1'\]"):
        given.fit()


def test_a_that_diverges_at_its_own_lr_is_still_fitted() -> None:
    given = runs(0.3)
    given.losses_a[4:, 0, -1] = math.inf
    test = judge(given, given.fit(), 0.05)
    assert test.multiplier == pytest.approx(0.3, rel=2e-3)
    assert test.verdict == "SPED-UP"
    assert test.residual_at_one > 1
