"""What comes before all factors and directions: numbers that are none, nothing to judge, and what is right."""

import pytest
from tests.loss.accumulation.evidence import evidence, fitted, multiple, turned

from truestep.loss.accumulation._cause import SAME, cause, with_batch_norm
from truestep.loss.accumulation._comparison import Comparison
from truestep.loss.accumulation._evidence import Cause

NAN = float("nan")


def test_what_is_right_needs_no_remedy() -> None:
    assert cause(evidence(multiple(1.0), half=1.0)) == Cause(SAME, "")
    assert cause(evidence(multiple(1.0))) == Cause(SAME, "")


@pytest.mark.parametrize("norms", [(NAN, 1.0), (1.0, NAN), (float("inf"), 1.0), (NAN, NAN)])
def test_what_is_no_number_is_said_before_all_else(norms: tuple[float, float]) -> None:
    told = cause(evidence(Comparison(*norms, NAN, NAN, NAN, NAN), half=1.0)).sentence
    assert told.startswith("not finite")
    assert ("accumulated" in told) == (norms[0] != 1.0)
    assert ("union" in told) == (norms[1] != 1.0)


def test_zero_gradients_are_told_apart() -> None:
    assert "nothing to compare" in cause(evidence(Comparison(0.0, 0.0, NAN, NAN, NAN, NAN))).sentence
    assert "leaves no gradient" in cause(evidence(Comparison(0.0, 1.0, 0.0, NAN, 1.0, NAN))).sentence


def test_a_loop_that_varies_too_much_is_not_judged_whatever_its_factor() -> None:
    told = cause(evidence(multiple(1.0), tolerance=0.6, floor=0.2))
    assert told.sentence.startswith("the loop itself varies by 0.2 of its gradient")
    assert "cancel" in cause(evidence(multiple(1.3), tolerance=0.6)).sentence


def test_a_floor_is_told_where_it_limits_what_is_seen() -> None:
    assert "varies by 0.01 from run to run" in cause(evidence(multiple(1.0), tolerance=0.03, floor=0.01)).sentence
    assert "varies" not in cause(evidence(multiple(1.0), floor=1e-7)).sentence


def test_a_right_window_whose_half_is_wrong_tells_what_is_wrong_with_the_half() -> None:
    told = cause(evidence(multiple(1.0), half=0.5)).sentence
    assert told.startswith("short window: the loop divides by 4 even if only 2 micro-batches are there")
    told = cause(evidence(multiple(1.0), half=1.37)).sentence
    assert told.startswith("on 2 of the 4 micro-batches alone: a constant factor")


DEAF = "the loop ignores its argument"


@pytest.mark.parametrize(("found", "moved"), [(multiple(1.0), 0.0), (turned(0.5), 1e-6)])
def test_half_of_a_window_that_leaves_the_gradient_of_all_of_it_was_not_looked_at(
    found: Comparison, moved: float
) -> None:
    assert cause(evidence(found, half=turned(0.3), moved=moved)).sentence.startswith(DEAF)


def test_equal_gradients_of_equal_halves_are_no_deaf_loop() -> None:
    told = [
        evidence(multiple(4.0), half=2.0, moved=0.0),  # half's direction is right
        evidence(turned(0.3), half=turned(0.3), moved=0.0),  # the micro-batches are alike
        evidence(turned(0.3), half=turned(0.5), moved=0.1),
        evidence(turned(0.3), half=turned(0.5), moved=NAN),
        evidence(turned(0.3), half=turned(0.5)),
    ]
    assert not any(DEAF in cause(one).sentence for one in told)


def test_a_loss_fn_that_sums_is_seen_by_the_union_being_k_means() -> None:
    union = fitted(1.0, 1.0, 1.0, 1.0, mean=4.0)
    assert "`loss_fn` gives a sum" in cause(evidence(multiple(0.25), half=0.5, union=union)).sentence
    assert "`loss_fn` gives a sum" not in cause(evidence(multiple(0.25), half=0.5, union=fitted(0.25))).sentence


def test_a_small_turn_is_judged_as_a_factor_only_if_there_is_one() -> None:
    assert "missing division" in cause(evidence(turned(2e-5, factor=4.0), half=2.0)).sentence
    assert "another gradient" in cause(evidence(turned(2e-5))).sentence


def test_batch_norm_speaks_alone_or_beside_the_loop_s_own_mistake() -> None:
    right = with_batch_norm(0.3, Cause(SAME, ""), same=True)
    assert "held fixed the loop is right" in right.sentence
    assert "GroupNorm" in right.remedy
    wrong = with_batch_norm(0.3, Cause("missing division", "divide"), same=False)
    assert wrong.sentence.startswith("missing division (with BatchNorm's statistics held fixed; besides, BatchNorm")
    assert wrong.remedy == "divide"
