"""Recording changes nothing of a run, and a step that is not recorded costs it no tensor operation."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.beside import named, small_net
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from truestep.core import Recorder, Step

NUM_STEPS = 50
RULES: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3),
    "nesterov, foreach": lambda model: SGD(model.parameters(), 0.1, 0.9, nesterov=True, foreach=True),
    "AdamW, fused": lambda model: AdamW(model.parameters(), lr=1e-2, fused=True),
    "AdamW, foreach": lambda model: AdamW(model.parameters(), lr=1e-2, foreach=True),
}


def cnn() -> nn.Sequential:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(4 * 16, 3)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def train(rule: str, *, watched: bool, closure: bool) -> tuple[dict[str, Any], list[Step]]:
    """Everything that a run leaves behind, and the steps."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    model, steps = cnn(), list[Step]()
    optimizer = RULES[rule](model)
    if watched:
        Recorder(named(model), optimizer, steps.append, units=("0.weight", "5.weight"))
    for _ in range(NUM_STEPS):
        x, y = torch.randn(8, 1, 6, 6), torch.randint(3, (8,))

        def evaluate(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        if closure:
            optimizer.step(evaluate)
        else:
            evaluate()
            optimizer.step()
    left = {
        "model": model.state_dict(),
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "optimizer": optimizer.state_dict(),
        "rng": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
    }
    return left, steps


def assert_bit_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_bit_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, its in zip(one, other, strict=True):
            assert_bit_equal(mine, its)
    else:
        assert one == other


@pytest.mark.usefixtures("unchecked")  # beartype draws from `random` which element of a list it looks at
@pytest.mark.parametrize("closure", [False, True], ids=["plain", "closure"])
@pytest.mark.parametrize("rule", RULES)
def test_recording_every_step_leaves_every_bit_as_it_was(rule: str, closure: bool) -> None:
    alone, none = train(rule, watched=False, closure=closure)
    watched, steps = train(rule, watched=True, closure=closure)
    assert_bit_equal(watched, alone)
    assert none == []
    assert len(steps) == NUM_STEPS
    assert all(bool((step.took.dd > 0).any()) for step in steps)


class Operations(TorchDispatchMode):
    """The names of all tensor operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class TensorLr(Optimizer):
    """A rule that never asks for the value of its tensor lr."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad)


def operations(steps: int, due: Callable[[int], bool] | None) -> list[str]:
    torch.manual_seed(0)
    model = small_net()
    optimizer = TensorLr(model.parameters(), {"lr": torch.tensor(0.1)})
    if due is not None:
        Recorder(named(model), optimizer, lambda step: None, due=due, on_end=lambda index, skipped: None)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    seen = Operations()
    with seen:
        for _ in range(steps):
            optimizer.step()
    return seen.names


def test_a_step_that_is_not_due_runs_no_tensor_operation_of_ours() -> None:
    assert operations(3, due=lambda index: False) == operations(3, due=None)


def test_a_step_that_is_due_would_be_seen_to_copy_and_to_sync() -> None:
    extra = set(operations(1, due=lambda index: True)) - set(operations(1, due=None))
    assert any("_foreach_copy_" in name for name in extra)
    assert "aten._local_scalar_dense.default" in extra  # the tensor lr is read as a number


@pytest.mark.parametrize("method", ["item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"])
def test_a_step_that_is_not_due_asks_no_tensor_for_its_value(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Tensor, *_: Any) -> Any:
        raise AssertionError(f"{method} waits for the device")

    model = small_net()
    optimizer = TensorLr(model.parameters(), {"lr": torch.tensor(0.1)})
    recorded: list[Step] = []
    Recorder(named(model), optimizer, recorded.append, due=lambda index: index == 1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.found_inf = torch.tensor(0.0)  # what a gradient scaler sets
    with monkeypatch.context() as patched:
        patched.setattr(Tensor, method, refuse)
        optimizer.step()
    optimizer.step()
    assert len(recorded) == 1


def test_a_recorded_step_allocates_no_new_copy_of_the_weights() -> None:
    model = small_net()
    optimizer = SGD(model.parameters(), 0.1, 0.9, nesterov=True, foreach=True)
    recorder = Recorder(named(model), optimizer, lambda step: None)
    places: list[list[int]] = []
    for _ in range(3):
        model(torch.randn(8, 5)).sum().backward()
        optimizer.step()
        kept = [*recorder._weights._of.values(), *recorder._gradient._buffers._of.values()]
        places.append([x.data_ptr() for x in kept])
    assert len(places[0]) == 8  # weights and, for this rule, gradients
    assert places[0] == places[1] == places[2]
