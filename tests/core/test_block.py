"""One block's sums do not depend on how its tensors lie in memory."""

import pytest
import torch
from tests.cases import CASES, assert_same_gram, explicit

from truestep.core import Gram, _block
from truestep.core._block import block_products
from truestep.core._products import Scratch

CPU = torch.device("cpu")


@pytest.mark.parametrize("unit_dim", [None, 0])
@pytest.mark.parametrize("case", CASES)
def test_a_weight_after_the_step_stands_for_the_displacement(case: str, unit_dim: int | None) -> None:
    w, g, moved = CASES[case]()
    sums = block_products(w, g, moved, Scratch(CPU, 2 * w.numel()), after=True, unit_dim=unit_dim)
    difference = moved.to(torch.complex128 if w.is_complex() else torch.float64) - w
    assert_same_gram(Gram.from_columns(sums), explicit(w, g, difference, unit_dim), 1e-14)


@pytest.mark.parametrize("unit_dim", [None, 0])
@pytest.mark.parametrize("case", CASES)
def test_no_gradient_counts_as_zero(case: str, unit_dim: int | None) -> None:
    w, _, d = CASES[case]()
    sums = block_products(w, None, d, Scratch(CPU, 2 * w.numel()), after=False, unit_dim=unit_dim)
    assert_same_gram(Gram.from_columns(sums), explicit(w, None, d, unit_dim), 1e-14)


@pytest.mark.parametrize("case", ["channels_last", "transposed"])
def test_a_common_memory_order_is_read_without_a_copy(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = list(CASES[case]())
    flat = _block._flat(tensors)
    assert [x.data_ptr() for x in flat] == [x.data_ptr() for x in tensors]
    assert not tensors[0].is_contiguous()


def test_a_sparse_gradient_is_read_at_its_own_entries_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a sparse gradient was made dense")

    w, g, d = CASES["sparse"]()
    expected = explicit(w, g, d)
    monkeypatch.setattr(torch.Tensor, "to_dense", refuse)
    sums = block_products(w, g, d, Scratch(CPU, w.numel()), after=False)
    assert_same_gram(Gram.from_columns(sums), expected, 1e-14)


def test_a_sparse_gradient_without_entries_is_zero() -> None:
    empty = torch.sparse_coo_tensor(torch.zeros(1, 0), torch.zeros(0, 5), (6, 5), check_invariants=True)
    w, _, d = CASES["sparse"]()
    sums = block_products(w, empty, d, Scratch(CPU, w.numel()), after=False)
    assert_same_gram(Gram.from_columns(sums), explicit(w, None, d), 1e-14)
