"""What is read off an optimizer before it is built."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Muon, RMSprop

from truestep.compare import AdaBelief, Lion, SignSGD
from truestep.compare._factory import describe, largest_momentum, lr_of, scaled


def muon_and_adam(params):
    matrices = [p for p in params if p.dim() == 2]
    return Both(Muon(matrices, lr=0.02), Adam([p for p in params if p.dim() != 2], lr=0.001))


class Both(torch.optim.Optimizer):
    """Two optimizers' groups."""

    def __init__(self, *inner) -> None:
        super().__init__([group for each in inner for group in each.param_groups], {})


def refuses(params):
    raise TypeError("no weights please")


def test_the_multiplier_is_of_every_lr_and_of_nothing_else() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr, "initial_lr": 2 * lr} for lr in (0.5, 0.25)]
    optimizer = scaled(Adam(groups, weight_decay=0.1), 4)
    assert [group["lr"] for group in optimizer.param_groups] == [2.0, 1.0]
    assert [group["initial_lr"] for group in optimizer.param_groups] == [4.0, 2.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1]


def test_the_users_own_lr_tensor_is_not_written_to() -> None:
    lr = torch.tensor(0.5)
    assert float(scaled(SGD([nn.Parameter(torch.ones(1))], lr=lr), 2).param_groups[0]["lr"]) == 1.0
    assert float(lr) == 0.5


@pytest.mark.parametrize("multiplier", [-1.0, math.inf, math.nan])
def test_a_multiplier_that_is_none_is_refused(multiplier: float) -> None:
    with pytest.raises(ValueError, match="`multiplier` must be 0 or more and finite"):
        scaled(SGD([nn.Parameter(torch.ones(1))]), multiplier)


def test_descriptions_read_as_one_would_write_them() -> None:
    assert describe(partial(AdaBelief, lr=1e-3, eps=1e-16)) == "AdaBelief(lr=0.001, eps=1e-16)"
    assert describe(partial(partial(SGD, lr=0.1), momentum=0.9)) == "SGD(lr=0.1, momentum=0.9)"
    assert describe(muon_and_adam) == "muon_and_adam"


def test_rules_that_take_matrices_alone_have_an_lr_too() -> None:
    assert (lr_of(partial(Muon, lr=0.02)), lr_of(muon_and_adam)) == (0.02, 0.02)


@pytest.mark.parametrize(
    ("factory", "momentum"),
    [
        (SGD, 0.0),
        (partial(SGD, momentum=0.8), 0.8),
        (partial(RMSprop, momentum=0.5), 0.5),
        (Lion, 0.0),
        (partial(SignSGD, momentum=0.9), 0.0),
        (muon_and_adam, 0.95),
    ],
)
def test_the_largest_momentum(factory, momentum: float) -> None:
    assert largest_momentum(factory) == momentum


def test_a_factory_that_gives_no_optimizer_is_told() -> None:
    with pytest.raises(ValueError, match=r"`factory` must give an optimizer .*, refuses raised TypeError\('no weights"):
        lr_of(refuses)
