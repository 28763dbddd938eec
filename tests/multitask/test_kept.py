"""State in buffers goes where its model goes, and no number format of the model rounds it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from truestep.multitask._kept import Kept


class State(Kept):
    """Buffers of several formats, one of them none, and a state of its own inside."""

    def __init__(self, depth: int = 1) -> None:
        super().__init__()
        self.register_buffer("third", torch.tensor([1 / 3, 1e300], dtype=torch.float64))
        self.register_buffer("number", torch.tensor(2**40 + 1))
        self.register_buffer("kind", torch.ones(2, dtype=torch.bfloat16))
        self.register_buffer("nothing", None)
        if depth:
            self.inner = State(depth - 1)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(State(), nn.BatchNorm1d(2)))


CALLS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "float": lambda m: m.float(),
    "double": lambda m: m.double(),
    "to a dtype": lambda m: m.to(torch.float16),
    "to a dtype and a device": lambda m: m.to("cpu", torch.bfloat16),
    "like a tensor": lambda m: m.to(torch.ones(1, dtype=torch.float16)),
    "one format after the other": lambda m: m.half().double().bfloat16(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_models_number_format_rounds_no_state_at_any_depth(call: Callable[[nn.Module], nn.Module]) -> None:
    plain, moved = model(), call(model())
    for one, other in ((plain[1][0], moved[1][0]), (plain[1][0].inner, moved[1][0].inner)):
        for name, buffer in one.named_buffers(recurse=False):
            found = getattr(other, name)
            assert found.dtype == buffer.dtype
            assert found.equal(buffer)
        assert other.nothing is None


def test_the_rest_of_the_model_takes_the_format() -> None:
    moved = model().half()
    assert moved[0].weight.dtype == moved[1][1].running_mean.dtype == torch.float16


def test_a_state_by_itself_is_not_rounded_either_and_the_call_returns_it() -> None:
    state = State()
    assert state.half() is state
    assert state.third.tolist() == [1 / 3, 1e300]


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_the_state_moves_with_the_model_in_its_own_format(dtype: torch.dtype | None) -> None:
    moved = model().to(device="meta", dtype=dtype)
    for state in (moved[1][0], moved[1][0].inner):
        assert all(buffer.is_meta for buffer in state.buffers(recurse=False))
        assert (state.third.dtype, state.number.dtype) == (torch.float64, torch.int64)
    assert model().to("meta").to_empty(device="cpu")[1][0].third.dtype == torch.float64


def test_a_parameter_of_the_state_takes_the_format() -> None:
    state = State()
    state.weight = nn.Parameter(torch.ones(1))
    assert state.half().weight.dtype == torch.float16


def test_state_dicts_and_copies_hold_the_whole_numbers() -> None:
    one, other = model().half(), model()
    one[1][0].third.mul_(2)
    other.load_state_dict(one.state_dict())
    assert other[1][0].third.equal(one[1][0].third)
    assert copy.deepcopy(one)[1][0].third.equal(one[1][0].third)
