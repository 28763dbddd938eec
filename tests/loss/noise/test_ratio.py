"""Fieller's interval: it is the t-test turned round, covers as often as it says, and admits when there is none."""

import math
from statistics import fmean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truestep.loss.noise._ratio import Ratio, ratio_of_means, student_quantile


def pairs(ratio: float, n: int, noise: float = 0.3) -> tuple[list[float], list[float]]:
    y = 1 + noise * torch.randn(n, dtype=torch.float64)
    x = ratio * (1 + noise * torch.randn(n, dtype=torch.float64)) + 0.5 * ratio * (y - 1)
    return x.tolist(), y.tolist()


@given(ratio=st.floats(0.1, 1e3), n=st.integers(8, 60), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_at_the_ends_the_t_test_of_the_pairs_just_rejects(ratio: float, n: int, confidence: float) -> None:
    x, y = pairs(ratio, n)
    found = ratio_of_means(x, y, confidence)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(fmean(x) / fmean(y))
    for end in (found.low, found.high):
        rest = [a - end * b for a, b in zip(x, y, strict=True)]
        assert abs(fmean(rest)) == pytest.approx(student_quantile(confidence, n - 1) * stdev(rest) / math.sqrt(n))


@pytest.mark.parametrize(
    ("confidence", "freedom", "tabled"),
    [
        (0.95, 7, 2.3646),
        (0.95, 15, 2.1314),
        (0.95, 199, 1.9720),
        (0.99, 7, 3.4995),
        (0.9, 10, 1.8125),
        (0.5, 8, 0.7064),
    ],
)
def test_students_quantile_is_the_tables(confidence: float, freedom: int, tabled: float) -> None:
    assert student_quantile(confidence, freedom) == pytest.approx(tabled, rel=1e-3)


@given(c=st.floats(1e-10, 1e10), d=st.floats(1e-10, 1e10))
def test_the_unit_of_either_mean_passes_through(c: float, d: float) -> None:
    x, y = pairs(3.0, 12)
    one, other = ratio_of_means(x, y), ratio_of_means([c * a for a in x], [d * b for b in y])
    for name in ("value", "low", "high"):
        assert getattr(other, name) == pytest.approx(getattr(one, name) * c / d, rel=1e-9)


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_it_covers_the_truth_as_often_as_it_says_resolved_or_not(noise: float) -> None:
    found = [ratio_of_means(*pairs(5.0, 16, noise)) for _ in range(600)]
    covered = sum(ratio.low <= 5.0 <= ratio.high for ratio in found) / 600
    assert 0.925 <= covered <= 0.975
    assert any(ratio.resolved for ratio in found)


def test_a_denominator_around_zero_gives_no_number_but_a_bound_from_below() -> None:
    x, y = [10.0, 12.0, 8.0, 10.0] * 3, [1.0, -1.0, 2.0, -0.5] * 3
    found = ratio_of_means(x, y)
    assert math.isnan(found.value)
    assert (found.resolved, found.high) == (False, math.inf)
    rest = [a - found.low * b for a, b in zip(x, y, strict=True)]
    assert fmean(rest) == pytest.approx(student_quantile(0.95, 11) * stdev(rest) / math.sqrt(12))
    assert str(found) == f"not resolved, above {found.low:.3g}"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_neither_number_nor_bound_is_ever_negative(sign: float) -> None:
    for _ in range(200):
        x, y = torch.randn(2, 9, dtype=torch.float64) + torch.tensor([[0.3], [sign]])
        found = ratio_of_means(x.tolist(), y.tolist())
        assert found.low >= 0
        assert math.isnan(found.value) or 0 <= found.low <= found.value <= found.high


def test_pairs_without_scatter_have_an_interval_of_no_width() -> None:
    found = ratio_of_means([6.0] * 8, [2.0] * 8)
    assert (found.value, found.low, found.high) == (3.0, 3.0, 3.0)
    assert str(Ratio(math.nan, 0.0, math.inf)) == "not resolved"


def test_too_few_pairs_and_what_is_no_probability_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 pairs are needed, found 7"):
        ratio_of_means([1.0] * 7, [1.0] * 7)
    with pytest.raises(ValueError, match="8 numerators, 9 denominators"):
        ratio_of_means([1.0] * 8, [1.0] * 9)
    with pytest.raises(ValueError, match="`confidence` must lie between 0 and 1, found 95"):
        ratio_of_means([1.0] * 8, [1.0] * 8, 95.0)
