"""The calibrated bootstrap: Student's own for a mean, and 95 % for what is no mean."""

import math

import pytest
import torch

from truestep.compare.statistics import Interval, calibrated_interval, paired_interval, resamples


def test_a_resample_draws_as_many_seeds_as_there_are() -> None:
    weights = resamples(5, 400)
    torch.testing.assert_close(weights.sum(1), torch.ones(400, dtype=torch.float64))
    counts = weights * 5
    torch.testing.assert_close(counts, counts.round())
    torch.testing.assert_close(weights.mean(0), torch.full((5,), 0.2, dtype=torch.float64), atol=0.02, rtol=0)


def test_equal_seeds_draw_equal_resamples() -> None:
    assert resamples(8, 10).equal(resamples(8, 10))
    assert not resamples(8, 10).equal(resamples(8, 10, seed=1))


def test_of_a_mean_it_is_students_interval() -> None:
    values = torch.randn(8, dtype=torch.float64)
    student = paired_interval(values)
    found = calibrated_interval(student.mean, resamples(8, 100_000) @ values, 8)
    assert (found.low, found.high) == pytest.approx(
        (student.low, student.high), abs=0.01 * (student.high - student.low)
    )


def test_it_holds_what_it_promises_at_eight_seeds_where_percentiles_do_not() -> None:
    """Of the log of a mean square, which is no mean: 95 % of intervals hold the truth, of percentiles' 88 %."""
    weights = resamples(8, 300)
    samples = 1 + 0.2 * torch.randn(2000, 8, dtype=torch.float64)
    truth = math.log(1.04)
    values, again = (samples**2).mean(1).log(), ((samples**2) @ weights.T).log()
    found = [calibrated_interval(float(v), e, 8) for v, e in zip(values, again, strict=True)]
    assert 0.93 < sum(not each.excludes(truth) for each in found) / 2000 < 0.97
    low, high = again.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=1)
    assert float(((low <= truth) & (truth <= high)).double().mean()) < 0.91


def test_equal_estimates_leave_no_width() -> None:
    assert calibrated_interval(2.0, torch.full((9,), 2.0, dtype=torch.float64), 3) == Interval(2.0, 2.0, 2.0)


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(ValueError, match="`seeds` must be at least 2"):
        calibrated_interval(1.0, torch.ones(3, dtype=torch.float64), 1)
