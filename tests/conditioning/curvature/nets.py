"""Small networks, and their dense Hessian and GGN from plain autograd."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batch = tuple[Tensor, Tensor]


def mlp(
    sizes: Sequence[int] = (6, 5, 4, 3),
    *,
    act: type[nn.Module] = nn.Tanh,
    norm: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(fan_in, fan_out), *([nn.BatchNorm1d(fan_out)] if norm else []), act()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:])).to(dtype)


def batch_for(model: nn.Sequential, n: int = 24, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    first, last = model[0].weight, model[-1].weight
    x = torch.randn(n, first.shape[1], generator=generator, dtype=torch.float64).to(first.dtype)
    return x, torch.randint(0, len(last), (n,), generator=generator)


def entropy(model: Any, batch: Batch) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1])


def dense_hessian(model: nn.Module, batch: Any, loss_fn: Any = entropy) -> Tensor:
    parameters = list(model.parameters())
    gradient = flat(torch.autograd.grad(loss_fn(model, batch), parameters, create_graph=True))
    rows = torch.autograd.grad(gradient, parameters, torch.eye(len(gradient)).to(gradient), is_grads_batched=True)
    return torch.cat([x.flatten(1) for x in rows], 1)


def dense_ggn(model: nn.Module, batch: Batch) -> Tensor:
    """J' H J of the mean cross entropy, with the softmax's own Hessian."""
    parameters, z = list(model.parameters()), model(batch[0])
    jacobian = torch.stack([flat(torch.autograd.grad(one, parameters, retain_graph=True)) for one in z.flatten()])
    p = z.detach().softmax(1)
    blocks = [torch.diag(row) - torch.outer(row, row) for row in p]
    return jacobian.T @ torch.block_diag(*blocks) @ jacobian / len(p)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])


def named(model: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    sizes = [p.numel() for p in model.parameters()]
    parts = zip(model.named_parameters(), vector.split(sizes), strict=True)
    return {name: part.view(p.shape) for (name, p), part in parts}


def state_of(model: nn.Module) -> list[Tensor]:
    """Copies of all that a look must leave: parameters, gradients, buffers, modes, random state."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    tensors = [*model.parameters(), *gradients, *model.buffers(), torch.get_rng_state()]
    return [x.detach().clone() for x in tensors] + [torch.tensor([m.training for m in model.modules()])]


def assert_same_state(model: nn.Module, before: Sequence[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(state_of(model), before, strict=True))
