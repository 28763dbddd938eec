"""A candidate that is no symmetry is refused."""

from __future__ import annotations

import pytest
import torch

from truestep.invariance.symmetries._probe import Row
from truestep.invariance.symmetries._search import Rows, _falls, _generators


def rows(*wg: tuple[float, ...], size: float = 1.0) -> Rows:
    return Rows.of([Row(torch.tensor(x).double(), torch.full((len(x),), size).double()) for x in wg])


def test_a_residual_is_relative_to_the_natural_sizes_and_a_cancellation_to_the_terms() -> None:
    found = rows((0.3, -0.1), (0.3, -0.1))
    assert found.residual((1, 1)) == pytest.approx(0.2 / 2**0.5)
    assert found.cancelled((1, 1)) == pytest.approx(0.2 / 0.1**0.5)
    assert found.cancelled((1, 3)) == pytest.approx(0.0, abs=1e-6)


def test_rows_are_measured_by_their_own_sizes() -> None:
    assert rows((3e8, 1e8), size=1e9).residual((1, 0)) == pytest.approx(rows((0.3, 0.1)).residual((1, 0)))


@pytest.mark.parametrize(
    ("before", "after", "passes"),
    [
        (1e-3, 1e-3 / 16**2, True),
        (1e-3, 1e-3 / 16**1.5, False),  # a tanh that saturates
        (1e-3, 1e-3 / 16**2.6, False),  # a SiLU on its way to a ReLU
        (1e-3, 1e-3, False),
        (1e-7, 2e-7, True),
        (1e-7, 1e-2, False),  # a ReLU6, at weights where it does not clip
        (1e-3, 2e-7, True),
        (5e-3, 1e-6, False),
    ],
)
def test_a_residual_must_be_small_and_fall_with_the_square_of_the_scale_or_to_rounding(
    before: float, after: float, passes: bool
) -> None:
    assert _falls(rows((before,)), rows((after,)), (1,), 1e-7) is passes


def test_what_is_rounding_beside_the_largest_product_of_the_row_does_not_count() -> None:
    again = Rows.of([Row(torch.tensor([0.0, 3e-9]).double(), torch.tensor([1.0, 1e-6]).double())])
    assert again.residual((0, 1)) == pytest.approx(3e-3)
    assert _falls(rows((0.0, 0.0)), again, (0, 1), 1e-7)


def test_exponents_near_whole_numbers_are_refused_where_their_terms_do_not_cancel() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = 1 + 0.3 * torch.randn(20, 5, generator=generator, dtype=torch.float64)

    def generators(factor: float) -> list[tuple[int, ...]]:
        wg = torch.cat([parts, -parts.sum(1, keepdim=True) / factor], 1)
        return _generators(Rows(wg, wg.abs()), list(range(6)), 0)[0]

    assert generators(1.0) == [(1, 1, 1, 1, 1, 1)]
    assert generators(1.05) == [(1, 1, 1, 1, 1, 1)]  # eps may do so much
    assert generators(1.13) == []  # a tenth is left
