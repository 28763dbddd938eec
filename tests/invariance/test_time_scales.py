"""Times of an equilibrium as shares of a run, and the sentence that each gets."""

from __future__ import annotations

import re

import pytest
import torch

from truestep.invariance._equilibrium import GroupEquilibrium
from truestep.invariance._rule import Rule
from truestep.invariance._time_scales import TimeScales, time_scales

ADAMW = GroupEquilibrium(
    Rule("adam", lr=1e-3, weight_decay=0.1, momentum=0.9, decoupled=True)
)  # 5,000 and 10,000 steps


def test_the_hand_worked_times_and_shares() -> None:
    found = time_scales(ADAMW, 40_000)
    assert (found.intrinsic_lr, found.buffer, found.norm, found.direction) == pytest.approx((1e-4, 10, 5000, 10_000))
    assert found.share(found.norm) == pytest.approx(0.125)


def test_coupled_momentum_multiplies_the_intrinsic_lr() -> None:
    sgd = GroupEquilibrium(Rule("sgd", lr=0.1, weight_decay=5e-4, momentum=0.9))
    found = time_scales(sgd, 1000)
    assert (found.intrinsic_lr, found.norm, found.direction) == pytest.approx((5e-4, 500, 2000))


@pytest.mark.parametrize(
    ("steps", "norm", "direction"),
    [
        (1000, "longer than your run: weight decay has not acted yet", "still remember the initialization"),
        (9000, "the norms are still on their way at its end", "still remember the initialization"),
        (14_000, "the norms are still on their way at its end", "knew before that many steps is forgotten"),
        (60_000, "the norms have settled after 25 % of it", "knew before that many steps is forgotten"),
    ],
)
def test_the_sentences_say_what_the_times_mean_for_the_run(steps: int, norm: str, direction: str) -> None:
    _, _, of_norm, of_direction = time_scales(ADAMW, steps).sentences
    assert norm in of_norm
    assert direction in of_direction


def test_a_run_of_exactly_one_norm_time_has_felt_its_decay() -> None:
    sentence = TimeScales(5000, 1e-4, 10.0, 5000.0, 10_000.0).sentences[2]
    assert "all of your run" in sentence
    assert "has not acted yet" not in sentence


def test_each_number_has_one_plain_sentence() -> None:
    for steps in (10, 1000, 20_000, 10**7):
        sentences = time_scales(ADAMW, steps).sentences
        assert len(sentences) == 4
        assert [s.split(":")[0] for s in sentences] == ["Intrinsic lr", "Buffer time", "Norm time", "Direction memory"]
        for sentence in sentences:
            assert re.fullmatch(r"[A-Z][^\n]*[^.]\.", sentence)
            assert "nan" not in sentence
            assert "inf" not in sentence


def test_without_decay_the_norm_grows_and_no_time_is_named() -> None:
    sentences = time_scales(GroupEquilibrium(Rule("sgd", lr=0.1, momentum=0.9)), 100).sentences
    assert "the norm of scale-invariant weights grows without end" in sentences[0]
    assert [s.split(":")[0] for s in sentences] == ["Intrinsic lr", "Buffer time"]


def test_adam_with_coupled_decay_asks_for_the_gradient_first() -> None:
    adam = GroupEquilibrium(Rule("adam", lr=1e-3, weight_decay=0.1, momentum=0.9))
    assert "measure that first" in time_scales(adam, 100).sentences[0]
    assert len(time_scales(adam.measured(1.0, 100), 100).sentences) == 4


def test_an_lr_of_zero_is_no_growth() -> None:
    for rule in (Rule("sgd", lr=0.0, weight_decay=0.1), Rule("adam", lr=0.0, momentum=0.9)):
        found = time_scales(GroupEquilibrium(rule), 100)
        assert found.idle
        assert found.sentences[0].startswith("Intrinsic lr: 0, lr is 0: nothing moves")
        assert "grows" not in " ".join(found.sentences)


def test_adam_without_decay_asks_for_no_gradient() -> None:
    sentences = time_scales(GroupEquilibrium(Rule("adam", lr=1e-3, momentum=0.9)), 100).sentences
    assert "grows without end" in sentences[0]
    assert "measure" not in " ".join(sentences)


def test_lions_times_say_that_they_are_approximate_and_no_others_do() -> None:
    lion = GroupEquilibrium(Rule("lion", lr=1e-4, weight_decay=1.0, momentum=0.9, beta2=0.99, decoupled=True))
    found = time_scales(lion, 1000)
    assert found.approximate
    assert found.sentences[-1].startswith("Approximate: ")
    assert not time_scales(ADAMW, 1000).approximate
    assert "Approximate" not in " ".join(time_scales(ADAMW, 1000).sentences)
    undecayed = GroupEquilibrium(Rule("lion", lr=1e-4, momentum=0.9, beta2=0.99, decoupled=True))
    assert "Approximate" not in " ".join(time_scales(undecayed, 1000).sentences)


def test_a_buffer_longer_than_the_norm_time_is_said() -> None:
    lion = GroupEquilibrium(Rule("lion", lr=1e-2, weight_decay=1.0, momentum=0.9, beta2=0.99, decoupled=True))
    assert "longer than the norm time" in time_scales(lion, 1000).sentences[1]


def test_what_makes_no_run_is_refused() -> None:
    with pytest.raises(ValueError, match="`steps` must be the positive number of steps of the run, found 0"):
        time_scales(ADAMW, 0)
    blocks = GroupEquilibrium(Rule("sgd", lr=torch.ones(3, dtype=torch.float64), weight_decay=0.1))
    with pytest.raises(ValueError, match="`group` must have one number a setting"):
        time_scales(blocks, 10)
