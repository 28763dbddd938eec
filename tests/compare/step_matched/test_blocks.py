"""Rows, blocks and names of each scope."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from truestep.compare.step_matched._blocks import Scope, list_blocks


def two_groups(*, named: bool = False) -> SGD:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))
    pairs = list(net.named_parameters())
    groups = (pairs[:2], pairs[2:])
    return SGD([{"params": group if named else [p for _, p in group]} for group in groups])


@pytest.mark.parametrize(
    ("scope", "rows", "sizes", "names"),
    [
        ("global", (1, 1, 1), (3,), ("all",)),
        ("group", (1, 1, 1), (2, 1), ("group 0", "group 1")),
        ("tensor", (1, 1, 1), (1, 1, 1), ("0.weight", "0.bias", "1.weight")),
        ("unit", (2, 1, 1), (1, 1, 1, 1), ("0.weight[0]", "0.weight[1]", "0.bias", "1.weight[0]")),
    ],
)
def test_the_blocks_of_each_scope(
    scope: Scope, rows: tuple[int, ...], sizes: tuple[int, ...], names: tuple[str, ...]
) -> None:
    optimizer = two_groups(named=True)
    blocks = list_blocks(optimizer, scope)
    assert (blocks.rows, blocks.sizes, blocks.names(optimizer.param_groups)) == (rows, sizes, names)


def test_weights_without_names_are_called_by_their_places() -> None:
    optimizer = two_groups()
    names = list_blocks(optimizer, "tensor").names(optimizer.param_groups)
    assert names == ("group 0, tensor 0", "group 0, tensor 1", "group 1, tensor 0")


def test_each_weight_gets_its_block_s_value_at_its_rows() -> None:
    column = torch.arange(4, dtype=torch.float64)
    optimizer = two_groups()
    assert [x.tolist() for x in list_blocks(optimizer, "unit").of_weights(column)] == [[0, 1], [2], [3]]
    assert [x.tolist() for x in list_blocks(optimizer, "group").of_weights(column[:2])] == [[0], [0], [1]]


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_weight_that_stands_twice_in_a_group_is_one() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert list_blocks(SGD([weight, weight]), "tensor").places == (1,)


def test_frozen_and_empty_weights_are_no_blocks_and_none_left_is_refused() -> None:
    optimizer = two_groups()
    optimizer.param_groups[0]["params"][0].requires_grad_(requires_grad=False)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(0, 3))]})
    blocks = list_blocks(optimizer, "tensor")
    assert (blocks.groups, blocks.places) == ((0, 1), (1, 0))
    with pytest.raises(ValueError, match="found none"):
        list_blocks(SGD([torch.zeros(2)]), "global")
