"""Which blocks a step can move, and their rows."""

from math import isnan

import pytest
import torch
from tests.cases import assert_same_gram, explicit
from torch.nn import Linear, Parameter
from torch.optim import SGD

from truestep.core import Gram
from truestep.core._kept import Used
from truestep.core._measure import Block, list_blocks, measure
from truestep.core._products import Scratch, chunk_elements

CPU = torch.device("cpu")


def test_blocks_come_in_the_optimizer_s_order_with_their_group_and_the_model_s_names() -> None:
    model = Linear(3, 2)
    optimizer = SGD([{"params": [model.bias]}, {"params": [model.weight]}], lr=0.1)
    blocks = list_blocks(dict(model.named_parameters()), optimizer, frozenset({"weight"}))
    assert [(block.name, block.group, block.unit_dim) for block in blocks] == [("bias", 0, None), ("weight", 1, 0)]


def test_names_may_come_from_a_function() -> None:
    weight = Parameter(torch.ones(2))
    assert list_blocks(lambda: {"w": weight}, SGD([weight]), frozenset())[0].name == "w"


def test_a_parameter_is_listed_if_it_wants_a_gradient_or_still_has_one() -> None:
    params = {name: Parameter(torch.ones(2)) for name in ("free", "frozen", "frozen late")}
    params["frozen"].requires_grad_(False)
    params["frozen late"].requires_grad_(False).grad = torch.ones(2)
    blocks = list_blocks(params, SGD(params.values()), frozenset())
    assert [block.name for block in blocks] == ["free", "frozen late"]


def test_a_tied_weight_is_one_block_under_its_first_name() -> None:
    shared, foreign = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    blocks = list_blocks({"embedding": shared, "head": shared}, SGD([shared, foreign]), frozenset())
    assert [block.name for block in blocks] == ["embedding"]


def test_a_scalar_has_no_units() -> None:
    scalar = Parameter(torch.tensor(1.0))
    assert list_blocks({"scale": scalar}, SGD([scalar]), frozenset({"scale"}))[0].unit_dim is None


def test_the_gradient_s_scale_leaves_through_its_products_alone() -> None:
    weight = Parameter(torch.randn(4))
    w, g = torch.randn(2, 4)
    block = Block("w", weight, 0, None)
    _, columns, _ = measure([block], [w], Used([8 * g], known=True, raw=True), torch.tensor(8.0), {})
    expected = explicit(w, g, weight.detach().double() - w.double())
    assert_same_gram(Gram.from_columns(columns[0][0]), expected, 1e-14)


def test_a_gradient_that_is_not_known_is_nan_in_its_products_alone() -> None:
    weight = Parameter(torch.randn(4))
    used = Used([torch.ones(4)], known=False, raw=True)
    _, columns, _ = measure([Block("w", weight, 0, None)], [torch.ones(4)], used, None, {})
    assert [isnan(x) for x in columns[0][0].tolist()] == [False, True, False, True, True, False]


def test_a_weight_resized_within_its_step_has_no_displacement() -> None:
    weight = Parameter(torch.randn(4, 2))
    used = Used([None, None], known=True, raw=True)
    blocks = [Block("w", weight, 0, None), Block("w", weight, 0, 0)]
    names, columns, errors = measure(blocks, [torch.ones(3, 2)] * 2, used, None, {})
    assert names == ("w", "w[0]", "w[1]", "w[2]", "w[3]")
    assert all(bool(rows.isnan().all()) for rows in columns)
    assert errors == []


def test_a_block_that_cannot_be_measured_has_nan_rows_and_its_exception_comes_third() -> None:
    good, bad = Parameter(torch.randn(4)), Parameter(torch.randn(4))
    blocks = [Block("bad", bad, 0, None), Block("good", good, 0, None)]
    used = Used([torch.ones(3), torch.ones(4)], known=True, raw=True)
    names, columns, errors = measure(blocks, [torch.ones(4)] * 2, used, None, {})
    assert names == ("bad", "good")
    assert [bool(rows.isnan().any()) for rows in columns] == [True, False]
    assert len(errors) == 1


@pytest.mark.parametrize("extra", [0, 5])
def test_one_scratch_serves_all_blocks(extra: int) -> None:
    sizes = (2, 7, 0, chunk_elements(CPU) + extra, 3, chunk_elements(CPU) + 2 * extra)
    blocks = [Block(str(i), Parameter(torch.ones(size)), 0, None) for i, size in enumerate(sizes)]
    scratch: dict[torch.device, Scratch] = {}
    used = Used([None] * len(blocks), known=True, raw=True)
    before: list[torch.Tensor | None] = [torch.zeros(size) for size in sizes]
    _, columns, _ = measure(blocks, before, used, None, scratch)
    assert [float(rows[0, 5]) for rows in columns] == [float(size) for size in sizes]
    kept = scratch[CPU]
    measure(blocks, before, used, None, scratch)
    assert scratch == {CPU: kept}
    assert kept.elements == chunk_elements(CPU)
