import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam, RMSprop

from truestep.compare import AdaBelief
from truestep.compare.problems import Problem, digits_mlp, noisy_quadratic
from truestep.compare.swap import SwapTest, swap_test
from truestep.compare.swap._swap_test import ARMS, judge_swap
from truestep.compare.training import Curves, Grafted, Replica, train

STEPS = (10, 20)


def judged(*logs: tuple[float, float]) -> SwapTest:
    """Two seeds each of the arms aa, ab, ba, bb, with the same log loss at both points."""
    losses = {arm: torch.tensor(each, dtype=torch.float64).exp()[:, None] for arm, each in zip(ARMS, logs, strict=True)}
    curves = {arm: Curves(STEPS, each.expand(-1, 2), None, True, "") for arm, each in losses.items()}
    return judge_swap("toy", "A", "B", curves, 1e9, norm="l2", scope="global")


def small(problem: Problem | None = None, **settings: object) -> SwapTest:
    a, b = partial(SGD, lr=0.01), partial(SGD, lr=0.03, momentum=0.5)
    return swap_test(problem or noisy_quadratic(), a, b, **{"seeds": 2, "steps": 12, "points": 3, **settings})


def test_the_arms_worked_out_by_hand() -> None:
    test = judged((0.0, 0.1), (-3.0, -2.9), (-1.0, -0.9), (-6.0, -5.9))
    for name, value in {"total": -6.0, "length": -4.0, "direction": -2.0, "interaction": -2.0}.items():
        assert getattr(test, name).mean == pytest.approx(value)
    assert test.length_share.mean == pytest.approx(2 / 3)
    assert (test.seeds, test.steps) == (2, STEPS)


def test_a_share_is_told_where_length_and_direction_pull_together() -> None:
    sentence = judged((0.0, 0.01), (-3.0, -2.99), (-1.0, -0.99), (-6.0, -5.99)).sentence
    assert sentence.startswith("B in place of A on toy lowers the log loss, averaged over the run, by 6 [")
    assert sentence.endswith(": 67 % [67, 67] of it is the length of its steps, 33 % their direction")


def test_a_direction_that_does_nothing_but_round_has_no_share() -> None:
    sentence = judged((0.0, 0.01), (-3.0, -2.99), (1e-6, 0.01), (-3.0, -2.99)).sentence
    assert sentence.endswith(": 100 % [100, 100] of it is the length of its steps, 0 % their direction")


def test_signed_effects_are_told_where_they_pull_apart() -> None:
    sentence = judged((0.0, 0.01), (-3.0, -2.99), (1.0, 1.01), (-2.0, -1.99)).sentence
    assert "the length of its steps does −3 [" in sentence
    assert "their direction +1 [" in sentence


def test_no_share_is_told_of_a_change_that_may_be_none() -> None:
    test = judged((0.0, 0.0), (1.0, -1.0), (0.0, 0.1), (1.0, -1.1))
    assert "no change that 2 seeds can tell" in test.sentence
    assert test.length_share.low == -math.inf


def test_runs_that_diverged_are_told_and_count_as_the_ceiling() -> None:
    logs = torch.tensor([[0.0, 0.1], [-3.0, -2.9], [math.inf, -0.9], [-6.0, math.nan]]).double()
    curves = {
        arm: Curves(STEPS, each.exp()[:, None].expand(-1, 2), None, True, "")
        for arm, each in zip(ARMS, logs, strict=True)
    }
    test = judge_swap("toy", "A", "B", curves, math.e**7, norm="l2", scope="global")
    assert test.sentence.endswith("; 2 of 8 runs diverged, each counted as 1000 times the first loss")
    assert test.total.mean == pytest.approx(((-6 - 0) + (7 - 0.1)) / 2)
    assert "diverged" not in judged((0.0, 0.1), (-3.0, -2.9), (-1.0, -0.9), (-6.0, -5.9)).sentence


def test_the_table_has_every_effect_with_its_interval() -> None:
    test = small()
    for interval in (test.total, test.length, test.direction, test.interaction):
        assert str(interval) in str(test)


def test_each_arm_is_trained_with_the_direction_and_the_length_it_is_named_by() -> None:
    a, b = partial(SGD, lr=0.01), partial(SGD, lr=0.03, momentum=0.5)
    test = small(norm="linf", scope="tensor")
    replicas = [Replica(0, 0), Replica(1, 1)]
    for arm, optimizer, control in (
        (("a", "a"), a, None),
        (("a", "b"), a, Grafted(b, "linf", "tensor")),
        (("b", "a"), b, Grafted(a, "linf", "tensor")),
        (("b", "b"), b, None),
    ):
        expected = train(noisy_quadratic(), optimizer, replicas, steps=12, points=3, control=control).losses
        assert torch.equal(test.losses[arm], expected)


def test_swapping_back_undoes_the_effects() -> None:
    a, b = partial(SGD, lr=0.01), partial(RMSprop, lr=0.01)
    there, back = (swap_test(noisy_quadratic(), *pair, seeds=2, steps=12) for pair in ((a, b), (b, a)))
    for name in ("total", "length", "direction"):
        assert getattr(there, name).mean == pytest.approx(-getattr(back, name).mean, abs=1e-12)


def test_another_lr_of_the_same_optimizer_is_length_alone() -> None:
    test = swap_test(digits_mlp(), partial(Adam, lr=3e-4), partial(Adam, lr=3e-3), seeds=2, steps=60, points=6)
    assert abs(test.direction.mean) < 1e-4
    assert test.total.high < -0.2
    assert test.length_share.mean == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_adabelief_in_place_of_adam_is_nine_tenths_length_and_a_direction_of_its_own() -> None:
    test = swap_test(digits_mlp(), partial(Adam, lr=1e-3), partial(AdaBelief, lr=1e-3), seeds=16, steps=300)
    assert 0.88 < test.length_share.mean < 0.98
    assert test.direction.high < 0


@pytest.mark.slow
def test_adam_at_ten_times_the_lr_has_the_same_directions_to_the_end() -> None:
    test = swap_test(digits_mlp(), partial(Adam, lr=3e-4), partial(Adam, lr=3e-3), steps=300)
    assert abs(test.direction.mean) < 1e-4


def test_one_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="`seeds` must be at least 2"):
        small(seeds=1)


def below_zero(model: torch.nn.Module, batch: object) -> torch.Tensor:
    return sum(p.square().sum() for p in model.parameters()) - 1e6


def test_a_loss_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must"):
        small(replace(noisy_quadratic(), loss_fn=below_zero))
