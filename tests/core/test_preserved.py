"""What ran inside leaves no trace, whether it ended or failed."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from truestep.core._preserved import preserved


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails: bool) -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1), nn.Dropout())
    model(torch.randn(4, 2)).sum().backward()
    model[1].bias.grad = None
    before = {name: x.clone() for name, x in model.state_dict().items()}
    grad = model[1].weight.grad
    values, drawn, python = grad.clone(), torch.get_rng_state(), random.getstate()
    try:
        with preserved(model) as told:
            assert model[1].weight.grad is None
            model.eval()(torch.randn(4, 2)).sum().backward()
            random.random()
            with torch.no_grad():
                model[0].running_mean.add_(1)
                model[1].weight.add_(1)
            grad.zero_()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert told.changed
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert model[1].weight.grad is grad
    assert torch.equal(grad, values)
    assert model[1].bias.grad is None
    assert model.training
    assert model[2].training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert random.getstate() == python


def test_unchanged_parameters_are_told_apart() -> None:
    model = nn.Linear(2, 1)
    with preserved(model) as told:
        model(torch.ones(1, 2)).sum().backward()
    assert not told.changed
