"""Times of a parameter group: from hand-worked gradients, and what is said where there are none."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from truestep._inspect_times import Group, GroupTimes, Sizes, gradient_sizes, group_times, groups_of
from truestep._user_function import UserError

ADAM = {"lr": 0.01, "weight_decay": 0.05, "betas": (0.9, 0.999)}


def group(name: str = "Adam", params: tuple[str, ...] = ("w",), **settings: Any) -> Group:
    return Group("parameter group 0", name, ADAM | settings, params)


def times(one: Group, sizes: Sizes | None = None, alone: tuple[str, ...] = ("w",)) -> GroupTimes:
    measure = dict.fromkeys(alone, (4.0, 9)) if sizes is None else sizes
    (found,) = group_times(
        [one], dict.fromkeys(one.params, "unit"), dict.fromkeys(alone, "unit"), 1000, lambda: measure
    )
    return found


class Rows(nn.Module):
    """Two rows whose lengths the loss does not see, a norm layer's buffer, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.0, 2.0], [0.0, 4.0]]))
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return (x * normalize(self.weight, dim=1)[:, 0]).sum() + self.bias.sum()


BATCHES = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]  # the gradients at the unit sphere


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)


@pytest.mark.parametrize(("width", "size", "numel"), [(1, 15 / 2, 2), (2, 0.0, 4)])
def test_the_gradients_size_is_the_mean_over_batches_and_parts(width: int, size: float, numel: int) -> None:
    # by unit: (1 + 9) / 2 and (4 + 16) / 2; as one of norm sqrt(20): 20 (1/4 + 4/16 + 9/4 + 16/16) / 2
    expected = size or 37.5
    assert gradient_sizes(Rows(), BATCHES, loss_fn, {"weight": width}) == {
        "weight": (pytest.approx(expected, rel=1e-6), numel)
    }


def test_parts_and_blocks_without_a_gradient_are_left_out() -> None:
    assert gradient_sizes(Rows(), [torch.tensor([0.0, 2.0])], loss_fn, {"weight": 1}) == {
        "weight": (pytest.approx(4.0, rel=1e-6), 2)
    }
    assert gradient_sizes(Rows(), [torch.zeros(2)], loss_fn, {"weight": 1}) == {}


def test_the_model_is_left_as_it_was() -> None:
    model = Rows().eval()
    model.weight.grad = torch.ones(2, 2)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    gradient_sizes(model, BATCHES, loss_fn, {"weight": 1})
    assert not model.training
    assert torch.equal(model.weight.grad, torch.ones(2, 2))
    assert model.bias.grad is None
    for name, x in model.state_dict().items():
        assert torch.equal(x, before[name])


def test_adams_coupled_times_are_those_of_the_measured_gradient() -> None:
    found = times(group(), {"w": (4.0, 9)})
    lr, wd, norm = 0.01, 0.05, (0.01 * sqrt(4.0 * 9) / (2 * 0.05)) ** (1 / 3)
    rate = lr * wd * norm * sqrt(9 / 4.0)  # the decay over the size of a gradient's element at that norm
    assert found.times is not None
    assert (found.times.direction, found.times.norm) == pytest.approx((1 / rate, 1 / (3 * rate)))
    assert found.reason is None


def test_where_each_block_has_its_own_times_the_middle_one_s_are_shown_and_the_spread_said() -> None:
    sizes = {"a": (1.0, 9), "b": (1e6, 9), "c": (64.0, 9)}
    found = times(group(params=("a", "b", "c", "other")), sizes, ("a", "b", "c"))
    assert found.alone == ("a", "b", "c")
    assert found.times == found.blocks["c"]
    assert found.blocks["c"].norm / found.blocks["a"].norm == pytest.approx(4, rel=1e-9)  # the cube root of G
    (note,) = found.notes
    shortest, longest = (f"{found.blocks[name].norm:,.0f}" for name in ("a", "b"))
    assert f"those of c, the middle of 3 blocks, whose norm times go from {shortest} to {longest} steps" in note


@pytest.mark.parametrize(
    "settings", [{"weight_decay": 0.0}, {"decoupled_weight_decay": True}, {"lr": 0.0}, {"amsgrad": True}]
)
def test_nothing_is_measured_where_nothing_depends_on_it(settings: dict[str, Any]) -> None:
    def refuse() -> Sizes:
        raise AssertionError

    for alone in ({"w": "unit"}, dict[str, str]()):
        assert len(group_times([group(**settings)], {"w": "unit"}, alone, 1000, refuse)) == 1
    assert len(group_times([group()], {"w": "joint"}, {}, 1000, refuse)) == 1


def test_the_lr_that_a_schedule_is_set_to_is_taken_at_zero_and_named_elsewhere() -> None:
    for settings in ({"initial_lr": 0.01}, {"initial_lr": 0.0, "max_lr": 0.01}, {"initial_lr": torch.tensor(0.01)}):
        found = times(group("AdamW", lr=0.0, **settings))
        assert found.lr == pytest.approx(0.01)
        assert found.times is not None
        assert found.times.intrinsic_lr == pytest.approx(0.01 * 0.05)
        assert "its lr is 0 now" in found.notes[0]
    (note,) = times(group("AdamW", lr=0.001, initial_lr=0.01)).notes
    assert "the times are for its lr of now, 0.001" in note
    assert times(group("AdamW", lr=0.01, initial_lr=0.01)).notes == ()


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (group("RMSprop"), "none are known for RMSprop"),
        (group("NAdam"), "none are known for NAdam"),
        (group(amsgrad=True), "none are known with amsgrad"),
        (group(lr=0.0), "its lr is 0, at which nothing moves"),
        (group("SGD", lr=2.0, weight_decay=0.6), "lr times weight decay is 1.2"),
        (group(params=()), "it holds none of this model's parameters"),
        (group("Lion", betas=None), "the settings of this Lion are not those that are known"),
        (group(params=("other",)), "they hold for blocks found invariant alone, and this group has none"),
    ],
)
def test_a_group_without_times_says_why(one: Group, words: str) -> None:
    found = times(one)
    assert found.times is None
    assert found.reason is not None
    assert words in found.reason


def test_joint_blocks_are_counted_where_none_is_alone() -> None:
    labels = {"a": "joint", "b": "joint", "c": "sensitive"}
    (found,) = group_times([group("AdamW", tuple(labels))], labels, {}, 10, dict)
    assert str(found.reason).endswith("this group has none (2 of its blocks are joint, with others)")


def test_groups_know_the_bare_names_of_a_wrapped_model() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW([{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}])
    for wrapped in (model, nn.DataParallel(model), torch.compile(model, backend="eager")):
        found = groups_of(optimizer, wrapped)
        assert [(one.name, one.params, one.weight_decay) for one in found] == [
            ("parameter group 0", ("weight",), 0.01),
            ("parameter group 1", ("bias",), 0.0),
        ]


def test_an_optimizer_without_weight_decay_has_none() -> None:
    model = nn.Linear(2, 1)
    assert groups_of(torch.optim.Rprop(model.parameters()), model)[0].weight_decay == 0.0


def test_what_is_no_optimizer_of_this_model_is_refused() -> None:
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(sgd)
    with pytest.raises(UserError, match="found ConstantLR in it: leave that out"):
        groups_of({"optimizer": sgd, "lr_scheduler": schedule}, model)
    for given in (sgd, [sgd], []):
        with pytest.raises(UserError, match="`optimizer` holds none of the model's parameters"):
            groups_of(given, other)
    both = groups_of([sgd, torch.optim.SGD(other.parameters(), lr=0.1)], model)
    assert [one.params for one in both] == [("weight", "bias"), ()]
