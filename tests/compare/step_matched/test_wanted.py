"""Lengths come from a schedule, a record or another optimizer, one for each block."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from truestep.compare.step_matched._blocks import list_blocks
from truestep.compare.step_matched._replay import Replay
from truestep.compare.step_matched._wanted import Wanted

LIKE = torch.zeros(1, dtype=torch.float64)


def wanted(length: Any, weight: nn.Parameter) -> Wanted:
    optimizer = SGD([("w", weight)], lr=1.0)
    return Wanted(length, optimizer, list_blocks(optimizer, "global"), "l2", 0.0, decay_out=False)


def of(source: Wanted, step: int, weight: nn.Parameter) -> float:
    before = weight.detach().clone()
    source.begin(list_blocks(SGD([("w", weight)]), "global"), 0.0, step)
    if source.reference is not None:
        source.reference.ready()
    with torch.no_grad():
        return source.of([before], LIKE, lambda: (weight - before).norm().double().reshape(1)).item()


@pytest.mark.parametrize(
    "length",
    [
        [0.5, 0.25],
        lambda step: 0.5**step / 2,
        [torch.tensor([0.5]), torch.tensor([0.25])],
        Replay(("w",), torch.tensor([[[1.0, 0.0, 0.25]], [[1.0, 0.0, 0.0625]]], dtype=torch.float64)),
    ],
)
def test_of_a_schedule_and_of_a_record(length: Any) -> None:
    weight = nn.Parameter(torch.ones(2))
    source = wanted(length, weight)
    assert [of(source, step, weight) for step in (0, 1)] == [0.5, 0.25]
    assert source.state_dict() == {}
    source.load_state_dict({})


def test_a_schedule_given_as_a_tensor_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"one for each of the 1 blocks of a step, found shape \(300,\)"):
        of(wanted(torch.linspace(0.1, 0.01, 300), weight), 0, weight)


def test_of_another_optimizer_with_its_state() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    source = wanted(SGD([weight], lr=1.0, momentum=0.5), weight)
    assert [of(source, step, weight) for step in (0, 1)] == [5.0, 7.5]
    assert weight.tolist() == [0.0, 0.0]
    state = source.state_dict()
    again = wanted(SGD([weight], lr=1.0, momentum=0.5), weight)
    again.load_state_dict(state)
    assert of(again, 2, weight) == 8.75
    with pytest.raises(ValueError, match="`state` must hold the state of the optimizer that is the `length`"):
        again.load_state_dict({})
