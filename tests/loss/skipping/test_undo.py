"""Weights and state of LBFGS come back to the last bit."""

import torch
from tests.loss.skipping.runs import everything, network, same
from torch import Tensor
from torch.optim import LBFGS

from truestep.loss.skipping._undo import Undo


def test_any_number_of_steps_is_undone() -> None:
    model = network()
    optimizer = LBFGS(model.parameters(), lr=0.5, max_iter=3, history_size=4)

    def step() -> None:
        batch = torch.randn(8, 5)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (model(batch) - 1).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)

    for number in range(4):  # the history fills up at the third
        before, undo = everything(model, optimizer), Undo(optimizer)
        assert not undo.is_spoiled()
        for _ in range(number + 1):
            step()
        assert not same(before, everything(model, optimizer))
        undo.restore()
        assert same(before, everything(model, optimizer))
        step()


def test_one_weight_that_is_not_finite_spoils() -> None:
    model = network()
    undo = Undo(LBFGS(model.parameters()))
    model[2].bias.data[1] = torch.nan
    assert undo.is_spoiled()
    undo.restore()
    assert not undo.is_spoiled()


def test_weights_without_elements_are_not_spoiled() -> None:
    assert not Undo(LBFGS([torch.nn.Parameter(torch.ones(0))])).is_spoiled()
