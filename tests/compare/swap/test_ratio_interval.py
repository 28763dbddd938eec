import math

import pytest
import torch

from truestep.compare.statistics import paired_interval
from truestep.compare.swap import ratio_interval


def test_at_the_ends_the_mean_difference_is_just_not_told_from_zero() -> None:
    below = torch.linspace(9, 11, 8, dtype=torch.float64)
    above = 0.9 * below + torch.tensor([0.1, -0.2, 0.3, -0.1, 0.0, 0.2, -0.3, 0.1], dtype=torch.float64)
    interval = ratio_interval(above, below)
    low, high = (paired_interval(above - end * below) for end in (interval.low, interval.high))
    assert low.low == pytest.approx(0, abs=1e-9)
    assert high.high == pytest.approx(0, abs=1e-9)
    assert interval.low < interval.mean < interval.high
    assert interval.mean == pytest.approx(float(above.mean() / below.mean()))


def test_a_ratio_to_one_and_the_same_number_has_students_interval() -> None:
    above = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    ratio, mean = ratio_interval(above, torch.full_like(above, 4.0)), paired_interval(above / 4)
    assert (ratio.low, ratio.high) == (pytest.approx(mean.low), pytest.approx(mean.high))


def test_an_exact_ratio_is_known_exactly() -> None:
    below = torch.tensor([-2.3, -2.2, -2.4], dtype=torch.float64)
    interval = ratio_interval(below, below)
    assert (interval.low, interval.mean, interval.high) == (pytest.approx(1), 1.0, pytest.approx(1))


def test_nothing_is_known_where_the_denominator_may_be_zero() -> None:
    above, below = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 1.0]], dtype=torch.float64)
    interval = ratio_interval(above, below)
    assert (interval.low, interval.high) == (-math.inf, math.inf)


def test_no_denominator_at_all_gives_nan() -> None:
    zeros = torch.zeros(3, dtype=torch.float64)
    assert math.isnan(ratio_interval(zeros, zeros).mean)


@pytest.mark.slow
def test_19_of_20_intervals_hold_the_true_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(2000):
        noise = torch.randn(2, 8, generator=generator, dtype=torch.float64)
        interval = ratio_interval(4.5 + noise[0], 5.0 + noise.sum(0))
        hits += not interval.excludes(0.9)
    assert 0.935 < hits / 2000 < 0.965


def test_one_seed_is_refused() -> None:
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="at least 2"):
        ratio_interval(one, one)
