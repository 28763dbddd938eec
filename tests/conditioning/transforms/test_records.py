"""Records mix over steps and are chosen on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from truestep.conditioning.transforms._gradient_centering import RowSum
from truestep.conditioning.transforms._records import decayed, tensors_of, unless


def record(n: float, *a: float) -> RowSum:
    return RowSum(torch.tensor(n, dtype=torch.float64), torch.tensor([a], dtype=torch.float64))


def mean(sums: RowSum) -> list[float]:
    return sums.mean[0].tolist()


def test_sums_that_forget_keep_a_mean_weighted_by_rows() -> None:
    assert mean(decayed(None, record(2, 6.0), 0.5)) == [3.0]  # the first step's own: no correction
    assert mean(decayed(record(2, 6.0), record(1, 0.0), 0.5)) == [1.5]
    assert mean(decayed(record(2, 6.0), record(1, 0.0), 0)) == [0.0]


def test_a_skipped_step_is_not_mixed_in_even_if_it_is_nan() -> None:
    before, new = record(2, 6.0), record(torch.nan, torch.nan)
    found = torch.ones(1)
    assert mean(unless(found, before, new)) == [3.0]
    assert mean(unless(0 * found, before, record(1, 5.0))) == [5.0]
    first: list[Tensor] = tensors_of(unless(found, None, new))
    assert [float(x.sum()) for x in first] == [0.0, 0.0]
