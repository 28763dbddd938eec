"""A space of exponents is given back as it was written: small, whole, few."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.invariance.symmetries.nets import CASES

from truestep.invariance.symmetries._exponents import eliminated, readable, shortest


@pytest.mark.parametrize("name", sorted(set(CASES) - {"MLP LN bias"}))  # of two equally short generators there
@settings(max_examples=2)
@given(seed=st.integers(0, 2**16))
def test_generators_mixed_at_random_come_out_again(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    names = [name for name, _ in CASES[name].build().named_parameters()]
    written = [tuple(a.get(n, 0) for n in names) for a in CASES[name].joint]
    up = [v if (sum(v), v) > (0, tuple(-x for x in v)) else tuple(-x for x in v) for v in written]
    exact = torch.tensor(written, dtype=torch.float64)
    mixed = torch.linalg.qr(torch.randn(len(exact), len(exact), generator=generator, dtype=torch.float64))[0] @ exact
    found = readable(mixed + 1e-4 * torch.randn(mixed.shape, generator=generator, dtype=torch.float64))
    assert found is not None
    assert sorted(found) == sorted(up)


def test_half_and_third_exponents_are_made_whole() -> None:
    rows = torch.tensor([[1.0, -1 / 3, 0.0], [0.0, 0.5, 1.0]], dtype=torch.float64)
    found = readable(rows)
    assert found == [(3, -1, 0), (0, 1, 2)]


def test_what_is_near_no_simple_fraction_is_refused() -> None:
    assert readable(torch.tensor([[1.0, 0.7071, 0.1617]], dtype=torch.float64)) is None


def test_an_eliminated_space_is_the_same_space() -> None:
    rows = torch.randn(4, 9, dtype=torch.float64)
    reduced = eliminated(rows)
    assert torch.linalg.matrix_rank(torch.cat([rows, reduced]), rtol=1e-9) == 4
    assert ((reduced.abs() - 1).abs() < 1e-12).any(1).all()


def test_a_vector_loses_what_others_can_take_from_it() -> None:
    found = shortest([(1, 1, 1, 1, 0), (1, 1, 0, 0, -1), (0, 0, 1, 0, 0)])
    assert sum(abs(x) for vector in found for x in vector) == 6  # (1, 1, 0, 0, -1) or (1, 1, 0, 1, 0), and two more
