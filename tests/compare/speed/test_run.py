"""The speed test of real trainings, small ones; those of full size are in benchmarks/bench_speed_test.py."""

import math
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, Adam, RMSprop

from truestep.compare import AdaBelief, Lion
from truestep.compare.problems import (
    digits_mlp,
    noisy_quadratic,
    quadratic,
)
from truestep.compare.speed import speed_test
from truestep.compare.speed._run import MULTIPLIERS, checked_multipliers, largest_lag
from truestep.compare.sweep import Sweep

AROUND_TEN = tuple(10 ** (k / 4) for k in range(3, 6))  # 5.6 to 18


def test_adam_at_ten_times_its_lr_is_adam_sped_up_ten_times() -> None:
    slow, fast = partial(Adam, lr=3e-4), partial(Adam, lr=3e-3)
    test = speed_test(
        digits_mlp(), slow, fast, seeds=3, steps=60, points=6, margin=0.1, multipliers=AROUND_TEN, path=False
    )
    assert test.verdict == "SPED-UP"
    assert test.multiplier == pytest.approx(10, rel=0.05)
    assert test.residual_at_one > 0.3
    assert test.sentence.startswith("Adam at lr 0.003 is Adam at lr 0.0")
    assert test.losses_a.shape == (4, 3, 6)
    assert not test.losses_b.equal(test.losses_b_again)  # other orders of the data
    assert not test.losses_b.equal(test.losses_a[2])


def test_momentum_is_ten_times_the_lr_nine_steps_later() -> None:
    plain, momentum = partial(SGD, lr=1e-4), partial(SGD, lr=1e-4, momentum=0.9)
    run = partial(speed_test, noisy_quadratic(), seeds=2, steps=120, multipliers=AROUND_TEN, path=False)
    with Sweep(workers=0) as sweep:  # the second test has the trainings of the first
        test, without = (run(plain, momentum, lag=lag, sweep=sweep) for lag in (True, False))
    assert test.multiplier == pytest.approx(10, rel=0.04)
    assert 7 <= test.lag <= 10
    assert without.residual > 2 * test.residual
    assert (without.lag, without.largest_lag) == (0.0, 0.0)


def test_momentum_against_ten_times_the_lr_is_nine_steps_ahead() -> None:
    plain, momentum = partial(SGD, lr=1e-3), partial(SGD, lr=1e-4, momentum=0.9)
    test = speed_test(noisy_quadratic(), momentum, plain, seeds=2, steps=120, multipliers=(0.5, 2), path=False)
    assert test.multiplier == pytest.approx(1, rel=0.04)
    assert -10 <= test.lag <= -7


def test_a_and_both_copies_of_b_have_data_orders_of_their_own() -> None:
    sgd = partial(SGD, lr=1e-3)
    test = speed_test(noisy_quadratic(), sgd, sgd, seeds=2, steps=6, points=3, multipliers=(2,), path=False)
    runs = (test.losses_a[0], test.losses_b, test.losses_b_again)
    for one, other in combinations(runs, 2):
        assert not torch.allclose(one, other, rtol=1e-9, atol=0)


def test_a_lag_is_at_most_half_of_the_run() -> None:
    momentum, plain = partial(SGD, lr=1e-4, momentum=0.9), partial(SGD, lr=1e-3)
    run = partial(speed_test, noisy_quadratic(), seeds=2, steps=8, points=4, multipliers=(0.5, 2), path=False)
    test = run(momentum, plain)
    assert test.largest_lag == -4.0
    assert math.isfinite(test.residual)
    assert run(plain, momentum).largest_lag == 4.0


def test_an_optimizer_that_is_no_other_sped_up_is_different() -> None:
    a, b = partial(Adam, lr=1e-3), partial(RMSprop, lr=1e-3)
    test = speed_test(digits_mlp(), a, b, seeds=3, steps=90, points=9, multipliers=(0.5, 2, 4), path=False)
    assert test.verdict == "DIFFERENT"


def test_without_noise_the_same_lr_is_the_same_and_its_path_too() -> None:
    sgd = partial(SGD, lr=1e-3)
    test = speed_test(quadratic(spread=0), sgd, sgd, seeds=2, steps=20, points=5, multipliers=(0.5, 2))
    assert test.verdict == "SAME"
    assert max(test.floor, test.residual_at_one) < 1e-12  # stacks of another size round otherwise
    assert test.multiplier == pytest.approx(1, rel=1e-3)
    assert test.path is not None
    assert (test.path.distance_at_one, test.path.floor) == pytest.approx((0, 0), abs=1e-6)


def test_without_a_grid_of_ones_own_multipliers_are_added_twice_around_the_nearest() -> None:
    slow, fast = partial(SGD, lr=1e-3), partial(SGD, lr=3e-3)
    with Sweep(workers=0) as sweep:
        run = partial(speed_test, noisy_quadratic(), slow, fast, seeds=2, steps=12, points=4, path=False, sweep=sweep)
        test, kept = run(), len(sweep.results())
        assert run().multipliers == test.multipliers
        assert len(sweep.results()) == kept  # which has the added ones too
    added = sorted(set(test.multipliers) - set(MULTIPLIERS))
    assert 7 <= len(added) <= 10
    assert test.multipliers == tuple(sorted(test.multipliers))
    assert all(abs(math.log10(m / test.multiplier)) < 0.15 for m in added)
    assert sum(abs(math.log10(m / test.multiplier)) < 0.035 for m in added) >= 4
    assert test.losses_a.shape == (len(test.multipliers), 2, 4)


@pytest.mark.slow
def test_near_the_largest_stable_lr_the_spline_does_not_ring() -> None:
    slow, fast = partial(SGD, lr=0.002), partial(SGD, lr=0.006)
    test = speed_test(quadratic(), slow, fast, steps=3000, seeds=2, path=False)
    assert test.verdict == "SPED-UP"  # with quarter decades alone .16 nats stay: DIFFERENT
    assert test.multiplier == pytest.approx(3, rel=0.01)


def test_one_near_the_last_lr_at_which_a_trains_is_found() -> None:
    slow, fast = partial(SGD, lr=1.2e-3), partial(SGD, lr=0.015)  # 12.5; at 17.8 A diverges
    test = speed_test(quadratic(), slow, fast, seeds=2, steps=200, path=False)
    assert test.verdict == "SPED-UP"
    assert test.multiplier == pytest.approx(12.5, rel=0.01)


def test_a_grid_that_ends_too_early_is_unbounded() -> None:
    slow, fast = partial(SGD, lr=1e-3), partial(SGD, lr=1e-2)
    test = speed_test(noisy_quadratic(), slow, fast, seeds=2, steps=40, points=5, multipliers=(2, 4), path=False)
    assert (test.verdict, test.multiplier) == ("UNBOUNDED", pytest.approx(4))


def test_a_store_keeps_the_trials_and_changes_no_number(tmp_path: Path) -> None:
    a, b = partial(Adam, lr=1e-3), partial(AdaBelief, lr=1e-3)
    run = partial(speed_test, noisy_quadratic(), a, b, seeds=2, steps=8, points=4, multipliers=(0.5, 2, 4, 8))
    here = run()
    with Sweep(tmp_path / "speed.db", workers=0) as sweep:
        there = run(sweep=sweep)
        kept = len(sweep.results())
        run(sweep=sweep)
        assert kept == len(sweep.results()) == 4  # two stacks of A, one of B, one for the path
    assert there.losses_a.equal(here.losses_a)
    assert (there.multiplier, there.residual, there.path) == (here.multiplier, here.residual, here.path)


def test_here_optimizers_need_no_importable_name() -> None:
    slow, fast = (lambda p: SGD(p, lr=1e-4)), (lambda p: SGD(p, lr=2e-4))
    test = speed_test(noisy_quadratic(), slow, fast, seeds=2, steps=9, points=3, multipliers=(1.5, 3), path=False)
    assert test.multiplier == pytest.approx(2, rel=0.1)


def test_the_grid_is_quarter_decades_with_a_one() -> None:
    assert MULTIPLIERS[4] == 1.0
    assert checked_multipliers(MULTIPLIERS) == MULTIPLIERS
    assert (MULTIPLIERS[0], MULTIPLIERS[-1], len(MULTIPLIERS)) == (0.1, 100.0, 13)


@pytest.mark.parametrize(
    ("a", "b", "lag"),
    [
        (partial(SGD, lr=1.0), partial(SGD, lr=1.0, momentum=0.9), 9.0),
        (partial(SGD, lr=1.0, momentum=0.75), partial(SGD, lr=1.0, momentum=0.5), -2.0),
        (Adam, AdaBelief, 0.0),
        (partial(SGD, lr=1.0, momentum=1.0), partial(SGD, lr=1.0), 0.0),
    ],
)
def test_the_lag_ends_where_the_momenta_differ_no_more(a: partial[SGD], b: partial[SGD], lag: float) -> None:
    assert largest_lag(a, b) == pytest.approx(lag)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 1}, "`seeds` must be at least 2 for an interval, found 1"),
        ({"margin": 0.0}, "`margin` must be above 0, found 0"),
        ({"multipliers": (1.0,)}, "`multipliers` must be one or more beside 1"),
        ({"multipliers": (0.0, 2.0)}, "`multipliers` must be positive and finite"),
        ({"steps": 0}, "`steps` must be at least 1"),
    ],
)
def test_what_makes_no_test_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        speed_test(noisy_quadratic(), torch.optim.Adam, torch.optim.Adam, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slow", "fast", "low", "high"),
    [
        (partial(Adam, lr=3e-4), partial(Adam, lr=3e-3), 9.5, 10.5),
        (partial(Adam, lr=3.7e-4), partial(Adam, lr=3e-3), 7.8, 8.4),  # 8.108, between two knots
        (partial(SGD, lr=0.0041), partial(SGD, lr=0.02), 4.8, 4.95),  # 4.878
    ],
)
def test_on_the_digits_what_is_sped_up_is_found_so(
    slow: partial[Adam], fast: partial[Adam], low: float, high: float
) -> None:
    test = speed_test(digits_mlp(), slow, fast, path=False)
    assert test.verdict == "SPED-UP"
    assert low < test.multiplier < high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("b", "verdicts"),
    [
        (partial(SGD, lr=0.03, momentum=0.9), {"DIFFERENT", "UNDECIDED"}),  # 1.6 floors at a lag of 9, the largest
        (partial(RMSprop, lr=1e-3), {"DIFFERENT"}),
        (partial(Lion, lr=1e-3), {"DIFFERENT"}),
    ],
)
def test_on_the_digits_these_are_not_adam_sped_up(b: partial[SGD], verdicts: set[str]) -> None:
    assert speed_test(digits_mlp(), partial(Adam, lr=1e-3), b, path=False).verdict in verdicts


@pytest.mark.slow
def test_on_standardized_digits_momentum_is_ten_times_the_lr() -> None:
    plain, momentum = partial(SGD, lr=0.003), partial(SGD, lr=0.003, momentum=0.9)
    test = speed_test(digits_mlp(standardize=True), plain, momentum, path=False)
    assert test.verdict == "SPED-UP"
    assert 9.7 < test.multiplier < 10.4
    assert 7 <= test.lag <= 10


@pytest.mark.slow
def test_ada_belief_is_adam_sped_up_on_standardized_digits_and_by_a_hair_or_not_on_raw_ones() -> None:
    adam, belief = partial(Adam, lr=1e-3), partial(AdaBelief, lr=1e-3)
    test, raw = (speed_test(digits_mlp(standardize=it), adam, belief, path=False) for it in (True, False))
    assert (test.verdict, raw.verdict) in {("SPED-UP", "SPED-UP"), ("SPED-UP", "UNDECIDED")}
    assert 1.5 < test.multiplier < 1.75
    assert 0.035 < raw.residual < 0.05
