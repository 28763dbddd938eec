"""Views of a tree of features have the same numbers, each its own node, and overwriting one is noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from truestep.multitask.balancing._split import Split, in_half

TASKS = ("a", "b")


def trained(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True) * 1.0


def tree() -> dict[str, Any]:
    """Trained features at two depths, between what is not trained and what is no tensor."""
    return {"p": [trained(2, 3), (torch.arange(4), "size", None)], "q": {"deep": (trained(5), 7)}, "r": torch.ones(2)}


def test_views_have_the_trees_shape_its_numbers_and_its_memory() -> None:
    z = tree()
    split = Split(z, TASKS, apart=True)
    assert [*split.views] == [*TASKS]
    for view in split.views.values():
        assert [*view] == ["p", "q", "r"]
        assert type(view["p"]) is list
        assert type(view["p"][1]) is type(view["q"]["deep"]) is tuple
        for mine, other in ((view["p"][0], z["p"][0]), (view["q"]["deep"][0], z["q"]["deep"][0])):
            assert mine is not other
            assert mine.equal(other)
            assert mine.data_ptr() == other.data_ptr()


def test_what_is_not_trained_is_passed_on_as_it_is() -> None:
    z = tree()
    view = Split(z, TASKS, apart=True).views["b"]
    assert view["p"][1][0] is z["p"][1][0]
    assert view["p"][1][1:] == ("size", None)
    assert view["q"]["deep"][1] == 7
    assert view["r"] is z["r"]


def test_features_and_inputs_are_the_trained_tensors_in_one_order() -> None:
    z = tree()
    split = Split(z, TASKS, apart=True)
    assert [id(x) for x in split.features] == [id(z["p"][0]), id(z["q"]["deep"][0])]
    for task, view in split.views.items():
        assert [id(x) for x in split.inputs[task]] == [id(view["p"][0]), id(view["q"]["deep"][0])]


def test_each_view_has_its_own_node_and_together_they_send_back_the_sum() -> None:
    z = trained(3)
    split = Split(z, TASKS, apart=True)
    assert len({id(view.grad_fn) for view in split.views.values()}) == 2
    total = 2 * split.views["a"].sum() + 3 * split.views["b"].sum()
    own = torch.autograd.grad(total, [split.views["a"], split.views["b"], z])
    assert [g.tolist() for g in own] == [[2.0] * 3, [3.0] * 3, [5.0] * 3]


def test_views_that_are_not_apart_are_the_features_themselves() -> None:
    z = tree()
    split = Split(z, TASKS, apart=False)
    assert all(view is z for view in split.views.values())
    assert split.inputs == {}
    assert len(split.features) == 2


def test_a_tensor_is_a_tree_too_and_one_that_is_not_trained_has_no_device() -> None:
    z = trained(3)
    assert Split(z, TASKS, apart=True).device == z.device
    frozen = Split(torch.ones(3), TASKS, apart=True)
    assert frozen.device is None
    assert frozen.features == []
    assert frozen.views["a"] is not None
    frozen.check()


@pytest.mark.parametrize("part", [0, 1])
def test_a_head_that_overwrites_any_part_of_its_view_is_refused(part: int) -> None:
    split = Split([trained(3), trained(2)], TASKS, apart=True)
    split.check()
    split.views["b"][part].relu_()
    with pytest.raises(
        ValueError, match=r"a head overwrote its view of the features .*: make the head's first operation"
    ):
        split.check()


def test_overwriting_before_the_split_or_after_a_first_operation_or_what_is_not_trained_is_fine() -> None:
    z, fixed = trained(3).relu_(), torch.ones(2)
    split = Split([z, fixed], TASKS, apart=True)
    split.views["a"][0].sin().relu_()
    split.views["a"][1].add_(1)
    split.check()
    assert [x.shape for x in split.features] == [z.shape]
    split.views["a"][0].relu_()  # now the features themselves
    with pytest.raises(ValueError, match="overwrote"):
        split.check()


@pytest.mark.parametrize(
    ("dtype", "half"),
    [(torch.float16, True), (torch.bfloat16, False), (torch.float32, False), (torch.float64, False)],
)
def test_float16_features_and_float16_autocast_are_half_precision_and_nothing_else(
    dtype: torch.dtype, half: bool
) -> None:
    assert in_half([torch.ones(1), torch.ones(1, dtype=dtype)]) is half
    assert not in_half([])
    if dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            assert in_half([torch.ones(1)]) is half
            assert not in_half([])
        with torch.autocast("cpu", dtype, enabled=False):
            assert not in_half([torch.ones(1)])


def test_heads_may_compute_in_half_precision_before_the_split_or_before_the_losses_are_given() -> None:
    with torch.autocast("cpu", torch.float16):
        inside = Split(trained(3), TASKS, apart=True)
        outside = Split(trained(3), TASKS, apart=True)
    assert inside.in_half
    inside.check()
    assert inside.in_half  # autocast has ended, and the heads were under it
    outside = Split(trained(3), TASKS, apart=True)
    assert not outside.in_half
    with torch.autocast("cpu", torch.float16):
        outside.check()
    assert outside.in_half
