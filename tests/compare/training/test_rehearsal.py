"""Before a stack is trained, one step of it is compared, and leaves no trace."""

import random

import pytest
import torch
from tests.compare.training.nets import dropping, normalized, problem
from torch import Tensor, nn

from truestep.compare.problems import cross_entropy_loss
from truestep.compare.training._rehearsal import rehearse
from truestep.compare.training._stack import Stack
from truestep.compare.training._stackable import NotStackableError


@pytest.mark.parametrize("build", [normalized, dropping])
def test_weights_statistics_and_random_numbers_are_left_as_they_were(build) -> None:
    own = problem(build=build)
    stack, state = Stack(own, [0, 1, 2]), torch.get_rng_state()
    before = {name: x.clone() for name, x in (stack.params | stack.buffers).items()}
    if build is dropping:
        with pytest.raises(NotStackableError, match="random"):
            rehearse(own, stack, [0, 1, 2])
    else:
        rehearse(own, stack, [0, 1, 2])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in (stack.params | stack.buffers).items())
    assert all(p.grad is None for p in stack.params.values())


def half_blind(model: nn.Module, batch) -> Tensor:
    """In a stack the gradient is another than alone: what is detached depends on who asks."""
    loss = cross_entropy_loss(model, batch)
    return (
        loss if torch._C._functorch.peek_interpreter_stack() is None else loss.detach() + 0.5 * (loss - loss.detach())
    )


def test_a_gradient_that_is_another_is_noticed() -> None:
    own = problem(loss_fn=half_blind)
    with pytest.raises(NotStackableError, match=r"another gradient of 0\.weight"):
        rehearse(own, Stack(own, [0, 1]), [0, 1])


def python_draws(model: nn.Module, batch) -> Tensor:
    return cross_entropy_loss(model, batch) * random.random()


def test_numbers_that_python_draws_are_noticed() -> None:
    own = problem(loss_fn=python_draws)
    with pytest.raises(NotStackableError, match=r"another loss|random"):
        rehearse(own, Stack(own, [0, 1]), [0, 1])
