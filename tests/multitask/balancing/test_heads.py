"""The heads' pass: each loss's gradient at its own view, and nothing else is touched."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.multitask.nets import net, true_gradients
from torch import Tensor, nn

from truestep.multitask.balancing._heads import check_own_views, gradients, head_gradients, nodes
from truestep.multitask.balancing._split import Split

TASKS = ("a", "b")


def features(*widths: int) -> list[Tensor]:
    """Results, not leaves, so that there is a trunk below."""
    return [torch.randn(4, n, dtype=torch.float64, requires_grad=True) * 1.0 for n in widths]


def losses_of(views: Any, units: dict[str, float]) -> dict[str, Tensor]:
    return {task: unit * views[task].square().sum() for task, unit in units.items()}


@settings(max_examples=30)
@given(st.lists(st.integers(-10, 10), min_size=2, max_size=2))
def test_each_loss_has_its_gradient_at_its_own_view_in_its_own_unit(powers: list[int]) -> None:
    (z,) = features(3)
    split = Split(z, TASKS, apart=True)
    units = dict(zip(TASKS, (10.0**p for p in powers), strict=True))
    found = head_gradients(losses_of(split.views, units), split, None)
    for task in TASKS:
        torch.testing.assert_close(found[task], [2 * units[task] * z.detach()], rtol=1e-14, atol=0)


def test_each_gradient_is_multiplied_with_its_tasks_scale() -> None:
    (z,) = features(3)
    split = Split(z, TASKS, apart=True)
    losses = losses_of(split.views, {"b": 3.0, "a": 1.0})  # not in the tasks' order
    found = head_gradients(losses, split, {"a": torch.tensor(8.0), "b": torch.tensor(0.5)})
    assert found["a"][0].equal(16 * z)
    assert found["b"][0].equal(3 * z)


def test_parts_of_a_tree_keep_their_order_and_a_part_that_a_head_does_not_read_is_none() -> None:
    z = features(3, 2)
    split = Split(z, TASKS, apart=True)
    losses = {"a": split.views["a"][1].sum(), "b": 2 * split.views["b"][0].sum() + split.views["b"][1].sum()}
    found = head_gradients(losses, split, None)
    assert found["a"][0] is None
    assert found["a"][1].equal(torch.ones(4, 2, dtype=torch.float64))
    assert found["b"][0].equal(torch.full((4, 3), 2.0, dtype=torch.float64))
    assert found["b"][1].equal(torch.ones(4, 2, dtype=torch.float64))


def test_a_loss_that_is_not_trained_is_left_out_and_all_of_them_leave_nothing() -> None:
    split = Split(features(3)[0], TASKS, apart=True)
    fixed = torch.tensor(1.0)
    assert [*head_gradients({"a": fixed, "b": split.views["b"].sum()}, split, None)] == ["b"]
    assert head_gradients({"a": fixed}, split, None) == {}
    assert head_gradients({}, split, None) == {}


def test_no_grad_is_written_no_hook_of_a_parameter_fires_and_the_graph_is_kept() -> None:
    model = net("ab")
    x, y = torch.randn(8, 5, dtype=torch.float64), {t: torch.randn(8, 2, dtype=torch.float64) for t in TASKS}
    fired: list[str] = []
    for name, p in model.named_parameters():
        p.register_hook(lambda _, name=name: fired.append(name))
        p.register_post_accumulate_grad_hook(lambda _, name=name: fired.append(name))
    split = Split(model.trunk(x), TASKS, apart=True)
    losses = model.losses(split.views, y)
    for _ in range(2):
        head_gradients(losses, split, None)
        check_own_views(losses, split, TASKS)
    assert fired == []
    assert all(p.grad is None for p in model.parameters())
    sum(losses.values()).backward()
    after = {name: p.grad for name, p in model.named_parameters()}
    expected = true_gradients(model, x, y)
    for name, g in after.items():
        torch.testing.assert_close(g, expected["a"][name] + expected["b"][name], rtol=1e-12, atol=1e-12)


class Counted(torch.autograd.Function):
    """Doubles, and counts how often it is passed backward."""

    passes = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        Counted.passes += 1
        return g * 2


def test_each_head_is_passed_once_and_the_trunk_never() -> None:
    (z,) = features(3)
    split = Split(Counted.apply(z), TASKS, apart=True)
    losses = {task: Counted.apply(split.views[task]).sum() for task in TASKS}
    Counted.passes = 0
    head_gradients(losses, split, None)
    assert Counted.passes == len(TASKS)


def test_a_loss_that_does_not_read_its_view_is_refused_by_name() -> None:
    (z,) = features(3)
    split = Split(z, TASKS, apart=True)
    losses = {"a": split.views["a"].sum(), "b": z.sum()}
    with pytest.raises(
        ValueError, match=r"the loss of 'b' was not computed from its view: give its head views\['b'\], not"
    ):
        head_gradients(losses, split, None)


def test_a_loss_that_reads_another_view_is_refused_with_both_names_if_it_is_fresh() -> None:
    split = Split(features(3, 2), ("a", "b", "c"), apart=True)
    views = split.views
    losses = {t: views[t][0].sum() for t in "abc"} | {"b": views["b"][0].sum() + views["c"][1].sum()}
    check_own_views(losses, split, {"a", "c"})
    with pytest.raises(
        ValueError, match=r"the loss of 'b' was computed from views\['c'\]: each loss must read its own"
    ):
        check_own_views(losses, split, {"b"})


def test_a_loss_whose_part_in_another_view_is_zero_reads_it_all_the_same() -> None:
    split = Split(features(3)[0], TASKS, apart=True)
    losses = {"a": split.views["a"].sum() + 0 * split.views["b"].sum()}
    with pytest.raises(ValueError, match="views"):
        check_own_views(losses, split, "a")


class Sink(torch.autograd.Function):
    """As the end of the forward pass of a DistributedDataParallel head."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wrapper: Any) -> Tensor:
        ctx.ddp_weakref = lambda: wrapper
        return x * 1

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


def test_a_head_that_reduces_its_gradients_when_it_first_goes_backward_is_refused() -> None:
    split = Split(features(3)[0], TASKS, apart=True)
    for wrapper in (None, SimpleNamespace(static_graph=False)):
        check_own_views({"a": Sink.apply(split.views["a"], wrapper).sum()}, split, "a")
    losses = {"a": Sink.apply(split.views["a"], SimpleNamespace(static_graph=True)).sum()}
    with pytest.raises(ValueError, match="leave `static_graph` False"):
        check_own_views(losses, split, "a")


def test_nothing_is_looked_at_for_one_task_and_a_loss_that_is_not_trained() -> None:
    alone = Split(features(3)[0], ("a",), apart=True)
    check_own_views({"a": alone.views["a"].sum()}, alone, "a")
    check_own_views({"a": torch.tensor(1.0)}, Split(features(3)[0], TASKS, apart=True), "a")


def test_gradients_are_none_where_there_is_nothing_to_pass() -> None:
    (z,) = features(3)
    assert gradients([], [z], None) == [None]
    assert gradients([z.sum()], [], None) == []
    assert gradients([z.sum()], [z, torch.ones(1, requires_grad=True)], None)[1] is None


def test_nodes_are_listed_once_nearest_first_and_no_more_layers_than_are_asked_for() -> None:
    x = torch.ones(2, requires_grad=True)
    near = x.sin()
    far = (near.cos() * near.exp()).sum()
    names = [node.name().rpartition("::")[2] for node in nodes([far, torch.ones(1)])]
    assert names == ["SumBackward0", "MulBackward0", "CosBackward0", "ExpBackward0", "SinBackward0", "AccumulateGrad"]
    assert len(nodes([far], 3)) == 4  # the layer that passes the number is the last
    assert nodes([x]) == nodes([]) == []


def test_the_graph_of_a_module_is_all_there() -> None:
    made = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))(torch.ones(1, 3))
    leaves = [node.variable for node in nodes([made]) if hasattr(node, "variable")]
    assert sorted(leaf.dim() for leaf in leaves) == [1, 1, 2, 2]
