"""What `watch` is given: named, checked, and refused in one line that says what to do."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from truestep.core import never, warn
from truestep.monitor._inputs import checked_parameters, checked_symmetries, held, named_optimizers, number_or_scalar


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)


def test_an_optimizer_is_named_by_its_class_and_numbered_where_that_occurs_again() -> None:
    adam = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    assert list(named_optimizers(sgd())) == ["SGD"]
    assert list(named_optimizers([sgd(), adam, sgd(), sgd()])) == ["SGD", "Adam", "SGD[2]", "SGD[3]"]


def test_a_mapping_names_the_optimizers_itself() -> None:
    players = {"generator": sgd(), "critic": sgd()}
    assert named_optimizers(players) == players
    assert named_optimizers(players) is not players


@pytest.mark.parametrize("none", [[], (), {}])
def test_no_optimizer_is_refused(none: Any) -> None:
    with pytest.raises(ValueError, match="`optimizer` is empty; pass the optimizer that steps this model"):
        named_optimizers(none)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model` \(ReLU\) has no parameters, so there is no step to watch"):
        checked_parameters(nn.ReLU(), ())


def test_an_unknown_unit_is_refused_and_the_known_names_are_shown() -> None:
    message = "`units` names no parameter of the model: ['fc']; names are such as ['weight', 'bias']"
    with pytest.raises(ValueError, match=re.escape(message)):
        checked_parameters(nn.Linear(2, 1), ("weight", "fc"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"wieght": "unit"}, r"`symmetries` names no parameter of the model: \['wieght'\]"),
        ({"weight": "Unit!"}, "`symmetries` must give each block one of unit, group, .*, found Unit!"),
    ],
)
def test_a_symmetry_that_would_say_nothing_is_refused(labels: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_symmetries(nn.Linear(2, 2), labels)


def test_parameters_of_all_groups_are_held() -> None:
    a, b, c = (nn.Parameter(torch.ones(n)) for n in (1, 2, 3))
    optimizer = torch.optim.SGD([{"params": [a, b]}, {"params": [c], "lr": 0.5}], lr=0.1)
    assert [p.numel() for p in held(optimizer)] == [1, 2, 3]


def test_a_rank_that_only_counts_records_nothing() -> None:
    assert not any(never(index) for index in range(5))


@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5), torch.tensor([[0.5]], requires_grad=True), np.float32(0.5)])
def test_a_loss_is_any_one_number(value: Any, unchecked: None) -> None:
    assert number_or_scalar(value, "loss") == 0.5
    assert number_or_scalar(None, "loss") is None


@pytest.mark.parametrize(
    ("value", "found"),
    [(torch.ones(2, 3), "a tensor of shape (2, 3); pass its mean"), ({"a": 1.0}, "a dict"), ("0.5", "a str")],
)
def test_what_is_no_number_is_refused_by_its_argument_s_name(value: Any, found: str, unchecked: None) -> None:
    for name in ("loss", "samples"):
        with pytest.raises(ValueError, match=re.escape(f"`{name}` must be one number, found {found}")):
            number_or_scalar(value, name)


def test_a_warning_never_stops_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(RuntimeWarning, match="the disk is full"):
        warn("the disk is full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("the disk is full")
    assert capsys.readouterr().err == "the disk is full\n"
