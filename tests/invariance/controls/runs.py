"""Small nets whose first two weights have no scale, the same batches for every run, and runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

EPS = 1e-30  # of the norm layers: at 1e-5 a weight has a scale after all (facts: 0.56 in the logits after 300 steps)
INVARIANT = ("0.weight", "3.weight")


def net(*, trained_head: bool = False, dtype: torch.dtype = torch.float64, eps: float = EPS) -> nn.Sequential:
    """Two BatchNorm layers and an output layer, which is fixed unless it is trained with the affine parameters."""
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for width_in, width in ((12, 16), (16, 16)):
        layers += [nn.Linear(width_in, width, bias=False), nn.BatchNorm1d(width, eps=eps, affine=trained_head)]
        layers += [nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(16, 5)).to(dtype)
    model[6].requires_grad_(trained_head)
    return model


def invariant(model: nn.Module) -> dict[str, Tensor]:
    """The weights before a BatchNorm."""
    params = dict(model.named_parameters())
    return {name: params[name] for name in INVARIANT}


def others(model: nn.Module) -> list[Tensor]:
    """All that is trained besides."""
    return [p for name, p in model.named_parameters() if name not in INVARIANT and p.requires_grad]


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """The invariant weights in the first parameter group, the rest, where it is trained, in a second."""
    rest = others(model)
    return [
        {"params": [*invariant(model).values()]},
        *([{"params": rest, "lr": 0.05, "weight_decay": 0.02}] * bool(rest)),
    ]


def batches(steps: int, dtype: torch.dtype = torch.float64) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches at each call."""
    generator = torch.Generator().manual_seed(2)
    teacher = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    for _ in range(steps):
        x = torch.randn(32, 12, generator=generator, dtype=torch.float64)
        noise = torch.randn(32, 5, generator=generator, dtype=torch.float64)
        yield x.to(dtype), (x @ teacher + noise).argmax(1)


def logits(model: nn.Module) -> Tensor:
    """Of one batch, in train mode as the loss is."""
    x, _ = next(batches(1, next(model.parameters()).dtype))
    return model(x).detach()


def backward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """New gradients."""
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    return loss


def train(
    model: nn.Module, optimizer: Optimizer, steps: int, *, start: int = 0, each: Callable[[int], None] = lambda _: None
) -> None:
    """Steps `start` to `steps`; `each` is called ahead of a step with its number."""
    for index, batch in enumerate(batches(steps, next(model.parameters()).dtype)):
        if index >= start:
            backward(model, batch)
            each(index)
            optimizer.step()


def random_settings(optimizer: Optimizer, *, tensor: bool = False) -> Callable[[int], None]:
    """Sets another lr (now and then 0) and weight decay in all groups at each step, the same in each run."""

    def each(index: int) -> None:
        generator = torch.Generator().manual_seed(3000 + index)
        lr, decay = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        for group in optimizer.param_groups:
            asked = 0.0 if index % 50 == 0 else 0.2 * lr
            group["lr"] = torch.tensor(asked, dtype=torch.float64) if tensor else asked
            group["weight_decay"] = 0.02 * decay

    return each


def apart(one: nn.Module, other: nn.Module) -> float:
    """Largest difference of the logits."""
    return float((logits(one) - logits(other)).abs().max())
