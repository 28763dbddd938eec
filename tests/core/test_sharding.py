"""A sharded run records what the unsharded run records, on every rank; a replica adds nothing."""

from typing import Any

import pytest
import torch
from tests.cases import assert_same_gram, explicit
from tests.core import ranks as script

from truestep.core import Gram
from truestep.core._sharding import add_shards, at_global_units, is_distributed, local, shards


@pytest.mark.parametrize("units", [False, True], ids=["blocks", "units"])
@pytest.mark.parametrize("rule", script.RULES)
@pytest.mark.parametrize("way", ["fsdp of 2", "fsdp of 4", "hsdp", "ddp"])
def test_every_rank_records_the_unsharded_run(way: str, rule: str, units: bool, ranks: list[Any]) -> None:
    alone = script.train(script.build(), rule, units=units)
    for rank in range(script.WORLD):
        run = ranks[rank]["runs"][f"{way}, {rule}, {units}"]
        assert run["names"] == alone["names"]
        assert_same_gram(Gram.from_columns(run["columns"]), Gram.from_columns(alone["columns"]), 1e-12)


@pytest.mark.parametrize("units", [False, True], ids=["blocks", "units"])
@pytest.mark.parametrize("placement", ["columns", "rows", "whole"])
def test_a_matrix_cut_by_any_dimension_has_its_whole_sums(placement: str, units: bool, ranks: list[Any]) -> None:
    w, g = script.matrix()
    d = (w - 0.1 * g) - w
    expected = explicit(w, g, d, 0 if units else None)
    for rank in range(script.WORLD):
        found = Gram.from_columns(ranks[rank]["placed"][f"{placement}, {units}"])
        assert_same_gram(found if units else found.sum(), expected, 1e-12)


def test_the_unsharded_run_has_the_units_of_its_blocks() -> None:
    blocks, units = (script.train(script.build(), "AdamW", units=units) for units in (False, True))
    assert blocks["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert units["names"] == [*(f"0.weight[{row}]" for row in range(5)), "0.bias", "2.weight[0]", "2.bias"]
    added = torch.stack([part.sum(1) for part in units["columns"].split([5, 1, 1, 1], 1)], 1)
    assert_same_gram(Gram.from_columns(added), Gram.from_columns(blocks["columns"]), 1e-13)


def test_a_plain_tensor_is_whole_on_its_only_rank() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 2))
    columns = torch.randn(3, 6, dtype=torch.float64)
    assert not is_distributed(weight)
    assert shards(weight) == ()
    assert local(weight).data_ptr() == weight.data_ptr()
    assert not local(weight).requires_grad
    assert at_global_units(columns, weight, 0) is columns
    assert add_shards([columns], [()])[0] is columns
