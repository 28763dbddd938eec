"""First quarter against last, and what changed the angle."""

from dataclasses import replace
from math import exp, isnan, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truestep.monitor.report._queries import Taken
from truestep.monitor.report._record import Block
from truestep.monitor.report._table import Row, headline, split

FIRST = Taken(
    rows=4,
    first=0,
    last=3,
    at=1.5,
    lr=0.1,
    predicted=0.02,
    effective_lr=0.001,
    w=10.0,
    g=2.0,
    d=1.0,
    radial=-0.01,
    growth=0.01,
    relative=0.1,
    angle=0.1,
)
LATER = replace(FIRST, first=12, last=15)
POSITIVE = st.floats(1e-12, 1e12)


def block(name="fc.weight", kind="Linear.weight", shape=(8, 4), symmetry=None) -> Block:
    return Block(1, name, shape, 32, kind, symmetry, 1)


@given(numbers=st.tuples(*[POSITIVE] * 8))
def test_the_factors_multiply_to_the_change_of_the_angle(numbers) -> None:
    a, b = numbers[:4], numbers[4:]
    first, last = (replace(FIRST, angle=n[0], g=n[1], d=n[2], relative=n[3]) for n in (a, b))
    parts = split(first, last)
    assert parts is not None
    assert parts.gradient + parts.settings + parts.norm + parts.turning == pytest.approx(log(b[0] / a[0]), abs=1e-12)
    assert parts.angle == pytest.approx(log(b[0] / a[0]), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "factors"),
    [
        ({"g": 4.0, "d": 2.0, "relative": 0.2, "angle": 0.2}, (2.0, 2.0, 1.0, 1.0, 1.0)),  # the gradient doubled
        ({"d": 0.1, "relative": 0.01, "angle": 0.01}, (0.1, 1.0, 0.1, 1.0, 1.0)),  # the lr fell to a tenth
        ({"w": 20.0, "relative": 0.05, "angle": 0.05}, (0.5, 1.0, 1.0, 0.5, 1.0)),  # the norm doubled
        ({"angle": 0.05}, (0.5, 1.0, 1.0, 1.0, 0.5)),  # the same step points half along the weight
    ],
)
def test_each_cause_is_named_by_its_factor(change, factors) -> None:
    parts = split(FIRST, replace(LATER, **change))
    assert parts is not None
    told = (parts.angle, parts.gradient, parts.settings, parts.norm, parts.turning)
    assert [exp(part) for part in told] == pytest.approx(factors)


@pytest.mark.parametrize("bad", [{"angle": nan}, {"g": 0.0}, {"d": 0.0}, {"relative": nan}])
def test_nothing_is_split_where_a_factor_is_no_number(bad) -> None:
    assert split(FIRST, replace(LATER, **bad)) is None
    assert split(replace(FIRST, **bad), LATER) is None


def test_quarters_that_share_steps_are_not_compared() -> None:
    assert Row(block(), FIRST, LATER).split is not None
    assert Row(block(), FIRST, FIRST).split is None
    assert Row(block(), None, LATER).split is None


@pytest.mark.parametrize(("symmetry", "told"), [(None, True), ("unit", True), ("tensor", True), ("sensitive", False)])
def test_the_equilibrium_is_a_target_unless_the_block_is_known_to_have_none(symmetry, told) -> None:
    assert Row(block(symmetry=symmetry), FIRST, LATER).targeted is told


def test_the_headline_is_of_medians_over_weights() -> None:
    rows = [
        Row(block("a.weight"), replace(FIRST, angle=0.4), replace(LATER, angle=0.01)),
        Row(block("b.weight"), replace(FIRST, angle=0.5), replace(LATER, angle=0.03, effective_lr=0.002)),
        Row(block("c.weight"), replace(FIRST, angle=0.6), replace(LATER, angle=0.02, lr=0.01, effective_lr=0.004)),
        Row(block("c.bias", kind="Linear.bias", shape=(8,)), FIRST, replace(LATER, angle=9.0)),
    ]
    told = headline(rows)
    assert told is not None
    assert (told.layers, told.lrs, told.lrs_before) == (3, (0.1, 0.01), (0.1,))
    assert (told.angle, told.before, told.ratio) == pytest.approx((0.02, 0.5, 1.0))
    assert told.effective_change == pytest.approx(2.0)
    assert (told.slowest, told.fastest) == (("a.weight", 0.01), ("b.weight", 0.03))


def test_the_headline_compares_with_the_prediction_only_where_it_may_hold() -> None:
    rows = [
        Row(block("a.weight", symmetry="unit"), FIRST, replace(LATER, angle=0.02)),
        Row(block("b.weight", symmetry="sensitive"), FIRST, replace(LATER, angle=9.0)),
    ]
    told = headline(rows)
    assert told is not None
    assert told.ratio == pytest.approx(1.0)


def test_without_two_quarters_or_any_angle_the_headline_says_less() -> None:
    once = headline([Row(block(), FIRST, FIRST)])
    assert once is not None
    assert isnan(once.before)
    assert isnan(once.effective_change)
    assert headline([]) is None
    assert headline([Row(block(), FIRST, replace(LATER, angle=nan)), Row(block(), FIRST, None)]) is None
