"""Six inner products in one pass over pieces: neither the pieces nor the scratch may show in the sums."""

from itertools import combinations_with_replacement

import pytest
import torch
from tests.cases import assert_same_gram, explicit
from torch import Tensor

from truestep.core import Gram, _products, gram
from truestep.core._products import PAIRS, Scratch, chunk_elements, total_products, unit_products

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3, 7, 8, 64])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(_products, "_CPU_CHUNK", request.param)
    return request.param


def test_the_pairs_are_in_the_order_of_the_gram_s_fields() -> None:
    names = ["".join(pair) for pair in combinations_with_replacement("wgd", 2)]
    assert tuple(names) == Gram.__slots__
    assert PAIRS == ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 24, 65])
def test_a_block_larger_than_a_piece_has_the_same_products(chunk: int, size: int) -> None:
    w, g, d = torch.randn(3, size)
    assert_same_gram(gram(w, g, d), explicit(w, g, d), 1e-14)


@pytest.mark.parametrize("shape", [(1, 8), (8, 1), (5, 3), (9, 9), (3, 0), (0, 3)])
def test_units_narrower_and_wider_than_a_piece_have_the_same_products(chunk: int, shape: tuple[int, int]) -> None:
    w, g, d = torch.randn(3, *shape)
    assert_same_gram(gram(w, g, d, unit_dim=0), explicit(w, g, d, unit_dim=0), 1e-14)


def test_a_block_larger_than_the_true_piece_has_the_same_products() -> None:
    w, g, d = torch.randn(3, chunk_elements(CPU) + 5)
    assert_same_gram(gram(w, g, d), explicit(w, g, d), 1e-13)


def test_the_scratch_is_no_larger_than_it_need_be() -> None:
    assert Scratch(CPU, 10).elements == 10
    assert Scratch(CPU, 10 * chunk_elements(CPU)).elements == chunk_elements(CPU)


@pytest.mark.parametrize("function", [total_products, unit_products])
def test_a_used_scratch_leaves_nothing_behind(function: object) -> None:
    scratch = Scratch(CPU, 12)
    shape = (12,) if function is total_products else (3, 4)
    function(*torch.full((3, *shape), torch.nan).unbind(), scratch, after=False)  # type: ignore[operator]
    w, d = torch.ones(2, *shape)
    sums: Tensor = function(w, None, d, scratch, after=False)  # type: ignore[operator]
    assert sums.view(-1, 6).sum(0).tolist() == [12.0, 0.0, 12.0, 0.0, 0.0, 12.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_displacement_between_two_narrow_weights_is_exact(dtype: torch.dtype) -> None:
    w, moved = torch.tensor([1.0, 1024.0]).to(dtype), torch.tensor([2.0**-8, 1024.0]).to(dtype)
    sums = total_products(w, None, moved, Scratch(CPU, 2), after=True)
    assert float(sums[5]) == (1 - 2.0**-8) ** 2


def test_a_nearly_radial_step_keeps_its_tangential_part() -> None:
    w = torch.randn(10_000, dtype=torch.float64)
    tangent = torch.randn(10_000, dtype=torch.float64)
    tangent -= w * (w @ tangent) / (w @ w)
    d = -1e-4 * w + 1e-7 * tangent
    made = gram(w, w, d)
    rejected = made.dd - made.wd**2 / made.ww
    torch.testing.assert_close(rejected, 1e-14 * (tangent @ tangent), rtol=1e-6, atol=0)
