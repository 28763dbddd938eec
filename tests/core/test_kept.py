"""Copies are kept and refilled, and a second one is kept only for rules that need it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Optimizer

from truestep.core._kept import Buffers, UsedGradient


def test_a_buffer_is_refilled_and_not_allocated_anew() -> None:
    buffers = Buffers()
    (first,) = buffers.fill(["w"], [torch.ones(3)])
    (second,) = buffers.fill(["w"], [torch.zeros(3)])
    assert first is second
    assert second.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.ones(4)),
        (torch.zeros(3), torch.ones(3, dtype=torch.float64)),
        (torch.zeros(3), torch.ones(3, 1)),
        (torch.zeros(2, 3), torch.ones(3, 2).T),
    ],
    ids=["size", "dtype", "dimensions", "strides"],
)
def test_a_buffer_that_no_longer_fits_is_replaced(one: Tensor, other: Tensor) -> None:
    buffers = Buffers()
    (first,) = buffers.fill(["w"], [one])
    (second,) = buffers.fill(["w"], [other])
    assert second is not first
    assert torch.equal(second, other)
    assert second.stride() == other.stride()
    assert second.data_ptr() != other.data_ptr()


def test_buffers_of_other_names_are_let_go() -> None:
    buffers = Buffers()
    buffers.fill(["gone", "stays"], [torch.ones(3), torch.ones(3)])
    buffers.fill(["stays"], [torch.ones(3)])
    assert set(buffers._of) == {"stays"}


def test_what_is_sparse_is_cloned_and_what_is_missing_stays_missing() -> None:
    sparse = torch.ones(3).to_sparse()
    copied, missing = Buffers().fill(["s", "n"], [sparse, None])
    assert missing is None
    assert copied is not sparse
    assert torch.equal(copied.to_dense(), torch.ones(3))


class Rule(Optimizer):
    """A rule that torch does not know, doing to `.grad` what `harm` does."""

    def __init__(self, params: Any, harm: Any = None) -> None:
        super().__init__(params, {"lr": 0.1})
        self.harm = harm


def used_by(optimizer: Optimizer, harm: Any, weight: Tensor, gradient: UsedGradient) -> Any:
    weight.grad = torch.full((3,), 2.0)
    gradient.begin(["w"], [weight])
    gradient.ready()
    harm(weight)
    return gradient.after()


def in_place(weight: Tensor) -> None:
    weight.grad.mul_(5)


def behind_autograd(weight: Tensor) -> None:
    weight.grad.data.mul_(5)


def replaced(weight: Tensor) -> None:
    weight.grad = weight.grad * 5


def dropped(weight: Tensor) -> None:
    weight.grad = None


HARMS = [in_place, behind_autograd, replaced, dropped]


def leave(weight: Tensor) -> None:
    """Leave the gradient alone."""


@pytest.mark.parametrize("harm", HARMS)
def test_a_foreign_rule_that_overwrites_is_right_from_its_first_step_on(harm: Any) -> None:
    weight = Parameter(torch.ones(3))
    optimizer = Rule([weight])
    gradient = UsedGradient(optimizer)
    for _ in range(3):
        used = used_by(optimizer, harm, weight, gradient)
        assert used.known
        assert used.grads[0].tolist() == [2.0, 2.0, 2.0]
        assert gradient.keep


def test_a_foreign_rule_that_leaves_gradients_alone_loses_its_copy_after_one_step() -> None:
    weight = Parameter(torch.ones(3))
    gradient = UsedGradient(Rule([weight]))
    first = used_by(gradient._optimizer, leave, weight, gradient)
    assert first.grads[0] is not weight.grad
    assert not gradient.keep
    assert gradient._buffers._of == {}
    second = used_by(gradient._optimizer, leave, weight, gradient)
    assert second.grads[0].data_ptr() == weight.grad.data_ptr()


@pytest.mark.parametrize("harm", [in_place, replaced, dropped])
def test_a_known_rule_that_overwrites_after_all_is_unknown_once_and_then_kept(harm: Any) -> None:
    weight = Parameter(torch.ones(3))
    gradient = UsedGradient(SGD([weight]))
    assert used_by(gradient._optimizer, leave, weight, gradient).known
    assert not used_by(gradient._optimizer, harm, weight, gradient).known
    used = used_by(gradient._optimizer, harm, weight, gradient)
    assert used.known
    assert used.grads[0].tolist() == [2.0, 2.0, 2.0]


def test_nan_gradients_are_no_proof_that_a_rule_leaves_them_alone() -> None:
    weight = Parameter(torch.ones(3))
    gradient = UsedGradient(Rule([weight]))
    weight.grad = torch.full((3,), torch.nan)
    gradient.begin(["w"], [weight])
    gradient.ready()
    gradient.after()
    assert gradient.keep


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("foreach", [None, False, True])
def test_of_torch_s_rules_only_nesterov_with_foreach_is_kept(nesterov: bool, foreach: bool | None) -> None:
    momentum = 0.9 if nesterov else 0.0
    optimizer = SGD([Parameter(torch.ones(3))], momentum=momentum, nesterov=nesterov, foreach=foreach)
    assert UsedGradient(optimizer).keep == (nesterov and foreach is True)
