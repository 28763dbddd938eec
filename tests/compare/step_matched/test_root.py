"""Lengths are found in few evaluations, wherever they are looked for."""

import math
from collections.abc import Callable
from math import expm1, inf, isnan, nan

import pytest

from truestep.compare.step_matched._root import nearest_factor


class Counted:
    """A length that counts how often it is asked for."""

    def __init__(self, length: Callable[[float], float]) -> None:
        self.length, self.times = length, 0

    def __call__(self, factor: float) -> float:
        self.times += 1
        return self.length(factor)


@pytest.mark.parametrize("first", [1e-6, 1.0, 1e6])
def test_a_length_in_proportion_takes_one_correction(first: float) -> None:
    length = Counted(lambda c: 3 * c)
    c, found = nearest_factor(length, 0.6, first, evaluations=7)
    assert (c, found) == pytest.approx((0.2, 0.6), rel=1e-12)
    assert length.times == 2


@pytest.mark.parametrize(
    ("length", "factor"),
    [
        (lambda c: c + c**2, 0.5),
        (math.tanh, 0.9729550745276566),
        (expm1, math.log1p(0.75)),
        (math.sqrt, 0.5625),
        (lambda c: c / (1 + c), 3.0),
    ],
)
@pytest.mark.parametrize("first", [0.01, 0.3, 2.0])
def test_bent_lengths_are_found_in_seven_evaluations(
    length: Callable[[float], float], factor: float, first: float
) -> None:
    counted = Counted(length)
    c, found = nearest_factor(counted, 0.75, first, evaluations=7)
    assert found == pytest.approx(0.75, rel=1e-5)
    assert c == pytest.approx(factor, rel=1e-3)
    assert counted.times <= 7


def test_what_is_good_enough_ends_the_search() -> None:
    length = Counted(lambda c: c + c**2)
    nearest_factor(length, 0.01, 0.01, evaluations=7, tolerance=0.1)
    assert length.times == 1


def test_where_it_is_not_reached_the_nearest_that_was_tried_is_given() -> None:
    tried: list[float] = []

    def length(c: float) -> float:
        tried.append(c)
        return c / (1 + c)

    c, found = nearest_factor(length, 2.0, 1.0, evaluations=5)
    assert len(tried) == 5
    assert c == max(tried)
    assert found == pytest.approx(c / (1 + c), rel=1e-12)


def test_lengths_that_are_not_finite_are_too_long() -> None:
    c, found = nearest_factor(lambda c: inf if c > 2 else c, 0.5, 1e3, evaluations=7)
    assert (c, found) == pytest.approx((0.5, 0.5), rel=1e-7)


def test_a_length_of_nothing_or_never_finite_has_no_factor() -> None:
    still, wild = Counted(lambda _: 0.0), Counted(lambda _: nan)
    c, found = nearest_factor(still, 1.0, 1.0, evaluations=7)
    assert isnan(c)
    assert found == 0.0
    assert still.times == 1
    assert all(map(isnan, nearest_factor(wild, 1.0, 1.0, evaluations=3)))
    assert wild.times == 3
