"""Every record adds up field by field, over any cut and over the ranks of a process group."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import RECORDS, assert_additive
from tests.core.ranks import rows_of
from torch import Tensor

from truestep.core import task_gram

ROWS = 8


def parts(x: Tensor, cuts: Sequence[int]) -> list[Tensor]:
    edges = [0, *sorted(cuts), len(x)]
    return [x[start:stop] for start, stop in pairwise(edges)]


@pytest.mark.parametrize("record", RECORDS)
@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, ROWS), max_size=6), power=st.integers(-10, 10))
def test_a_record_is_the_sum_of_its_parts_records(record: str, cuts: list[int], power: int) -> None:
    x = torch.randn(ROWS, 3, 4, dtype=torch.float64) * 10.0**power
    assert_additive(RECORDS[record](x), [RECORDS[record](part) for part in parts(x, cuts)])


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_of_zeros_is_neutral(record: str) -> None:
    x = torch.randn(ROWS, 3, 4)
    assert_additive(RECORDS[record](x), [RECORDS[record](x), RECORDS[record](x[:0])], tolerance=0)


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_is_frozen(record: str) -> None:
    made = RECORDS[record](torch.randn(ROWS, 3, 4))
    with pytest.raises(AttributeError, match="cannot assign"):
        setattr(made, type(made).__slots__[0], None)


def test_records_of_two_kinds_do_not_add_up() -> None:
    x = torch.randn(ROWS, 3, 4)
    with pytest.raises(TypeError, match="unsupported operand"):
        RECORDS["Gram"](x) + RECORDS["Moments"](x)


def test_records_of_different_blocks_are_refused_and_not_broadcast() -> None:
    x = torch.randn(ROWS, 3, 4)
    with pytest.raises(ValueError, match=r"`ww` has shape \(4,\) and \(\): records add up block by block"):
        RECORDS["Gram of units"](x) + RECORDS["Gram"](x)


def test_task_grams_of_different_tasks_are_refused_by_name() -> None:
    one, other = (task_gram({name: torch.ones(2)}) for name in ("depth", "pose"))
    with pytest.raises(ValueError, match=r"`tasks` differs: .*'depth'.*'pose'"):
        one + other


@pytest.mark.parametrize("record", RECORDS)
def test_without_a_process_group_a_record_is_its_own_total(record: str) -> None:
    made = RECORDS[record](torch.randn(ROWS, 3, 4))
    assert made.all_reduce() is made


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("record", RECORDS)
def test_all_reduce_gives_every_rank_the_record_of_the_whole(record: str, world: int, ranks: list[Any]) -> None:
    whole = RECORDS[record](torch.cat([rows_of(rank) for rank in range(world)]))
    for rank in range(world):
        total = type(whole)(**ranks[rank]["records"][world][record])
        assert_additive(whole, [total])


def test_a_rank_outside_the_group_takes_no_part(ranks: list[Any]) -> None:
    assert set(ranks[0]["records"]) == {2, 3, 4}
    assert set(ranks[3]["records"]) == {4}
