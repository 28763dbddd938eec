"""A stack's optimizer is the replica's, or there is none."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adafactor, Adam, Muon, Optimizer, Rprop
from torch.optim.lr_scheduler import ConstantLR

from truestep.compare import StepMatched
from truestep.compare.training._stackable import NotStackableError, stacked_optimizer


def weights() -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    shapes = [(3, 2), (3,)]
    return [nn.Parameter(torch.ones(s)) for s in shapes], [nn.Parameter(torch.ones(5, *s)) for s in shapes]


class Slower(SGD):
    """Could do anything in its step."""


def decay_for_matrices(params) -> Optimizer:
    matrices, others = ([p for p in params if (p.dim() > 1) is is_matrix] for is_matrix in (True, False))
    return SGD([{"params": matrices, "weight_decay": 0.1}, {"params": others}], lr=0.1)


def decay_by_size(params) -> Optimizer:
    return SGD([{"params": [p], "weight_decay": 1 / p.numel()} for p in params], lr=0.1)


def with_control(params) -> Optimizer:
    optimizer = SGD(params, lr=0.1)
    StepMatched(optimizer, 0.1)
    return optimizer


def with_scheduler(params) -> Optimizer:
    optimizer = SGD(params, lr=0.1)
    ConstantLR(optimizer)
    return optimizer


@pytest.mark.parametrize("factory", [LBFGS, Adafactor, partial(Rprop, lr=0.1), Slower])
def test_rules_that_are_not_listed_are_refused(factory) -> None:
    with pytest.raises(NotStackableError, match="is none of the optimizers that can be stacked"):
        stacked_optimizer(factory, *weights())


def test_muon_is_refused() -> None:
    one, many = ([w] for w, *_ in weights())
    with pytest.raises(NotStackableError, match="Muon is none"):
        stacked_optimizer(Muon, one, many)


@pytest.mark.parametrize("factory", [decay_for_matrices, decay_by_size])
def test_groups_made_by_shape_are_refused(factory) -> None:
    with pytest.raises(NotStackableError, match="depend on the shapes"):
        stacked_optimizer(factory, *weights())


@pytest.mark.parametrize("factory", [with_control, with_scheduler])
def test_a_step_that_somebody_hangs_on_is_refused(factory) -> None:
    with pytest.raises(NotStackableError, match="hooks or a scheduler"):
        stacked_optimizer(factory, *weights())


def test_a_differentiable_step_is_refused() -> None:
    with pytest.raises(NotStackableError, match="differentiable"):
        stacked_optimizer(partial(Adam, differentiable=True), *weights())


@pytest.mark.parametrize("settings", [{"foreach": True}, {"fused": False}, {"foreach": False}])
def test_the_kernel_that_the_user_has_chosen_stays(settings: dict) -> None:
    group = stacked_optimizer(partial(Adam, **settings), *weights()).param_groups[0]
    assert {name: group[name] for name in settings} == settings
    assert not group["fused"]
