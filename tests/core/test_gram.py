"""A Gram holds the six products, however the tensors lie in memory and however they are cut."""

from fractions import Fraction
from itertools import combinations_with_replacement

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import CASES, DTYPES, assert_additive, assert_same_gram, explicit
from torch import Tensor

from truestep.core import Gram, gram

SCALES = {torch.bfloat16: 10, torch.float16: 3, torch.float32: 10, torch.float64: 10}  # powers of ten


@pytest.mark.parametrize("case", CASES)
def test_the_products_are_those_of_the_dense_float64_vectors(case: str) -> None:
    w, g, d = CASES[case]()
    assert_same_gram(gram(w, g, d), explicit(w, g, d), 1e-14)


@pytest.mark.parametrize("case", CASES)
def test_units_are_the_slices_along_a_dimension_and_add_up_to_the_block(case: str) -> None:
    w, g, d = CASES[case]()
    for dim in range(-w.dim(), w.dim()):
        units = gram(w, g, d, unit_dim=dim)
        assert units.ww.shape == (w.shape[dim],)
        assert_same_gram(units, explicit(w, g, d, unit_dim=dim), 1e-14)
        assert_same_gram(units.sum(), gram(w, g, d), 1e-14)


@given(data=st.data(), dtype=st.sampled_from(DTYPES), rows=st.integers(0, 9), columns=st.integers(0, 5))
def test_shards_add_up_at_every_scale_and_in_every_format(
    data: st.DataObject, dtype: torch.dtype, rows: int, columns: int
) -> None:
    power = st.integers(-SCALES[dtype], SCALES[dtype])
    w, g, d = ((torch.randn(rows, columns) * 10.0 ** data.draw(power)).to(dtype) for _ in range(3))
    at, dim = data.draw(st.integers(0, rows)), data.draw(st.sampled_from((0, 1)))
    cut = [at, rows - at] if dim == 0 else [min(at, columns), columns - min(at, columns)]
    shards = zip(*(x.split(cut, dim) for x in (w, g, d)), strict=True)
    assert_additive(gram(w, g, d), [gram(*shard) for shard in shards])


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5),
    power=st.integers(-10, 10),
)
def test_blocks_add_up_to_the_concatenated_block(shapes: list[list[int]], power: int) -> None:
    blocks = [[torch.randn(shape) * 10.0**power for _ in range(3)] for shape in shapes]
    whole = [torch.cat([block[i].reshape(-1) for block in blocks]) for i in range(3)]
    assert_additive(gram(*whole), [gram(*block) for block in blocks])


@given(cut=st.lists(st.integers(1, 4), min_size=1, max_size=6), power=st.integers(-10, 10))
def test_products_with_the_sum_of_micro_batch_gradients_add_up(cut: list[int], power: int) -> None:
    w, d = torch.randn(2, 5, dtype=torch.float64)
    grads = torch.randn(len(cut), 5, dtype=torch.float64) * 10.0**power
    whole = gram(w, grads.sum(0), d)
    parts = [gram(w, g, d) for g in grads]
    scale = float(grads.norm(dim=1).sum())
    torch.testing.assert_close(sum(p.wg for p in parts), whole.wg, rtol=0, atol=1e-12 * scale * float(w.norm()))
    torch.testing.assert_close(sum(p.gd for p in parts), whole.gd, rtol=0, atol=1e-12 * scale * float(d.norm()))


def rational(x: Tensor, y: Tensor) -> Fraction:
    return sum((Fraction(a) * Fraction(b) for a, b in zip(x.tolist(), y.tolist(), strict=True)), Fraction(0))


@given(dtype=st.sampled_from(DTYPES), power=st.integers(-3, 3), size=st.integers(1, 20))
def test_a_sum_is_within_its_rounding_of_the_rational_one(dtype: torch.dtype, power: int, size: int) -> None:
    vectors = [(torch.randn(size, dtype=torch.float64) * 10.0**power).to(dtype) for _ in range(3)]
    for found, (i, j) in zip(gram(*vectors).columns(), combinations_with_replacement(range(3), 2), strict=True):
        bound = float(rational(vectors[i].abs(), vectors[j].abs()))
        assert abs(Fraction(found.item()) - rational(vectors[i], vectors[j])) <= size * 2**-53 * bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_product_of_two_narrow_floats_is_exact(dtype: torch.dtype) -> None:
    for x in torch.randn(50).to(dtype):
        for y in torch.randn(5).to(dtype):
            product = gram(x, y, y).wg
            assert Fraction(product.item()) == Fraction(x.item()) * Fraction(y.item())


def test_float32_sums_would_miss_what_float64_sums_keep() -> None:
    w = torch.tensor([1.0, 1e-5]).repeat(1000)
    assert float(gram(w, w, w).ww) == pytest.approx(1000 * (1.0 + float(w[1]) ** 2), rel=1e-14)
    assert float((w * w).sum()) == 1000.0


def test_the_hand_worked_gram() -> None:
    w, g, d = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]])
    assert gram(w, g, d).columns().tolist() == [5.0, 1.0, 8.5, 10.0, -2.5, 16.25]


def test_what_is_read_from_a_gram_is_a_ratio_of_its_sums() -> None:
    read = gram(*torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, -1.0]]))
    assert (read.weight_norm, read.gradient_norm, read.step_norm) == (5.0, 2.0, 1.0)
    assert (read.alignment, read.trust_ratio, read.predicted_loss_change) == (1.0, 2.5, -2.0)


@given(c=st.integers(-10, 10).map(lambda power: 10.0**power))
def test_alignment_does_not_see_the_scale_of_gradient_and_step(c: float) -> None:
    w, g, d = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(gram(w, c * g, d / c).alignment, gram(w, g, d).alignment)


def test_a_gram_survives_its_columns() -> None:
    one = gram(*torch.randn(3, 4, 2).unbind(), unit_dim=0)
    assert torch.equal(Gram.from_columns(one.columns()).columns(), one.columns())


def test_nan_stays_with_the_products_it_touches() -> None:
    w, g, d = torch.ones(3), torch.tensor([1.0, torch.nan, 0.0]), torch.ones(3)
    assert gram(w, g, d).columns().isnan().tolist() == [False, True, False, True, True, False]


def test_the_callers_tensors_are_not_written_and_not_tracked() -> None:
    w = torch.randn(4, requires_grad=True)
    g, d = torch.randn(2, 4)
    before = w.detach().clone(), g.clone(), d.clone()
    assert not gram(w, g, d).ww.requires_grad
    assert all(torch.equal(x, y) for x, y in zip((w, g, d), before, strict=True))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shapes", [(3, 3, 4), (3, 4, 3), (4, 3, 3)])
def test_shapes_that_differ_are_refused_by_name(shapes: tuple[int, int, int]) -> None:
    w, g, d = map(torch.zeros, shapes)
    with pytest.raises(ValueError, match=r"`w`, `g` and `d` must have one shape, found \(\d,\), \(\d,\), \(\d,\)"):
        gram(w, g, d)


@pytest.mark.parametrize(("shape", "dim"), [((), 0), ((3,), 1), ((3, 2), -3)])
def test_a_unit_dimension_that_is_not_there_is_refused(shape: tuple[int, ...], dim: int) -> None:
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"`unit_dim` must be a dimension .* found {dim}"):
        gram(x, x, x, unit_dim=dim)
