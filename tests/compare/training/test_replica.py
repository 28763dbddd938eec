"""A run's own numbers."""

import math

import pytest

from truestep.compare.training import Matched, Replica


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.inf, math.nan])
def test_a_multiplier_is_positive_and_finite(multiplier: float) -> None:
    with pytest.raises(ValueError, match="`multiplier` must be positive and finite"):
        Replica(0, 0, multiplier)


@pytest.mark.parametrize("length", [-1.0, math.inf, math.nan])
def test_a_length_is_not_negative_and_finite(length: float) -> None:
    with pytest.raises(ValueError, match="`length` must be 0 or more and finite"):
        Matched(length)
