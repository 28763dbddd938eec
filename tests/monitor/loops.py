"""Training loops that tests watch, and everything that watching must leave as it is."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from truestep import Watch, watch

OnStep = Callable[[int], Any]


class Net(nn.Module):
    """A small classifier: a convolution, BatchNorm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class Loop:
    """A seeded run of `Net` whose batch of each step depends on nothing but its number."""

    def __init__(self, rule: Callable[[Any], torch.optim.Optimizer] | None = None) -> None:
        torch.manual_seed(3)
        self.model = Net()
        make = rule or (lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-2))
        self.optimizer = make(self.model.parameters())
        self.losses: list[float] = []

    def watch(self, run_dir: Path | None = None, **options: Any) -> Watch:
        return watch(self.model, self.optimizer, run_dir, **({"every": 1, "console": None} | options))

    def backward(self, step: int) -> Tensor:
        x = torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(self.model(x), torch.arange(6) % 3)
        self.optimizer.zero_grad()
        loss.backward()
        self.losses.append(loss.item())
        return loss

    def train(self, run: Watch | None, start: int, stop: int, before: OnStep | None = None) -> None:
        for step in range(start, stop):
            loss = self.backward(step)
            if before:
                before(step)
            self.optimizer.step()
            if run:
                run.log(loss=loss, samples=6)

    def state(self) -> dict[str, Any]:
        """All that a watch could have touched."""
        return everything(self.model, self.optimizer)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Copies of weights, gradients, buffers, optimizer state and random states."""
    parameters = list(model.parameters())
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
        "optimizer": [
            {key: value.clone() if isinstance(value, Tensor) else value for key, value in optimizer.state[p].items()}
            for p in parameters
        ],
        "groups": [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups],
        "torch": torch.get_rng_state(),
        "numpy": [torch.as_tensor(np.asarray(part).copy()) for part in np.random.get_state()[1:]],  # noqa: NPY002
        "python": random.getstate(),
    }


def assert_bit_equal(one: Any, other: Any) -> None:
    """Same structure, same bits; nan equals nan."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert one.numpy().tobytes() == other.numpy().tobytes()
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_bit_equal(list(one.values()), list(other.values()))
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_bit_equal(a, b)
    else:
        assert one == other


def unwatched(steps: int, before: Callable[[Loop], OnStep] | None = None) -> dict[str, Any]:
    """The state that the loop ends in when nobody watches."""
    loop = Loop()
    loop.train(None, 0, steps, before(loop) if before else None)
    return loop.state()


def hooks(optimizer: torch.optim.Optimizer) -> int:
    """Step hooks on the optimizer."""
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
