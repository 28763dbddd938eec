"""Which groups weights fill is found by the tensors, and refused by name."""

from typing import Any

import pytest
import torch
from torch.optim import SGD

from truestep.invariance.controls._groups import _check_named, check_stepped, whole_groups

W, V, B = torch.randn(3, 2), torch.randn(3, 2), torch.randn(3)
OPTIMIZER = SGD([{"params": [W, V]}, {"params": [B]}], lr=0.1)


def test_groups_are_found_in_their_order() -> None:
    assert whole_groups(OPTIMIZER, {"w": W, "v": V}) == [0]
    assert whole_groups(OPTIMIZER, {"b": B, "v": V, "w": W}) == [0, 1]


def test_a_group_that_holds_others_is_refused_with_their_shape() -> None:
    with pytest.raises(ValueError, match=r"group 0 holds 1 other tensors too, the first of shape \(3, 2\)"):
        whole_groups(OPTIMIZER, {"w": W})


def test_weights_of_nobody_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="found 'x', 'y' besides"):
        check_stepped(OPTIMIZER, {"w": W, "x": W.clone(), "y": W.clone()})
    with pytest.raises(ValueError, match="`params` must hold at least one"):
        check_stepped(OPTIMIZER, {})


@pytest.mark.parametrize("given", [[torch.ones(2)], {"fc.weight": "unit"}])
def test_what_is_no_dict_of_tensors_is_refused_with_the_line_that_makes_one(given: Any) -> None:
    with pytest.raises(ValueError, match=r"`params` must be tensors by their names, such as .*named_parameters"):
        _check_named(given)
