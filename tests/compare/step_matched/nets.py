"""A small net with every kind of gradient, every rule of torch.optim, and lengths written in another way."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS, Optimizer, SparseAdam

LENGTHS = {"l2": 0.03, "rms": 0.003, "linf": 0.005, "relative": 0.01, "angular": 0.01, "function": 0.1}
RULES = [
    kind
    for name in dir(torch.optim)
    if inspect.isclass(kind := getattr(torch.optim, name))
    and issubclass(kind, Optimizer)
    and kind not in (Optimizer, LBFGS)
]
WAYS = [
    (kind, way)
    for kind in RULES
    for way in ("plain", "foreach", "fused")
    if way == "plain" or way in inspect.signature(kind).parameters
]


class Net(nn.Module):
    """An embedding and a hidden layer, so that every kind of gradient and a zero-initialised bias are there."""

    def __init__(self, *, sparse: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 5, sparse=sparse)
        self.hidden = nn.Linear(5, 6, bias=bias)
        self.out = nn.Linear(6, 3, bias=False)
        if bias:
            nn.init.zeros_(self.hidden.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(self.words(x))))


def net(**settings: bool) -> Net:
    torch.manual_seed(3)
    return Net(**settings).double()


def backward(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randint(4, (16,), generator=generator), torch.randint(3, (16,), generator=generator)
    model.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    return loss


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for seed in steps:
        backward(model, seed)
        optimizer.step()


def built(kind: Any, way: str = "plain", **settings: Any) -> tuple[Net, Optimizer]:
    """A net and a rule on its parameters in two groups, those that the rule takes."""
    model = net(sparse=kind is SparseAdam, bias=kind.__name__ != "Muon")
    params = list(model.words.parameters()) if kind is SparseAdam else list(model.parameters())
    settings |= {name: name == way for name in ("foreach", "fused") if name in inspect.signature(kind).parameters}
    return model, kind([{"params": params[:1]}, {"params": params[1:]}] if params[1:] else params, lr=1e-3, **settings)


def outputs(model: Net) -> dict[str, Tensor]:
    """Two outputs of different sizes for all words: the logits, and some of them once more."""
    logits = model(torch.arange(4))
    return {"logits": logits, "first": logits[:1, :2]}


def probe(model: Net) -> Callable[[], dict[str, Tensor]]:
    return partial(outputs, model)


def output_length(before: dict[str, Tensor], model: Net) -> float:
    """Root mean square of the change of all 14 numbers."""
    with torch.no_grad():
        now = outputs(model)
    return float(torch.cat([(now[name] - x).flatten() for name, x in before.items()]).square().mean().sqrt())


def rows(x: Tensor, scope: str) -> list[Tensor]:
    return list(x) if scope == "unit" and x.dim() > 1 else [x.flatten()]


def blocks(optimizer: Optimizer, scope: str) -> list[Tensor]:
    """Written another way than in the source: vectors of the blocks."""
    groups = [[p.detach() for p in group["params"]] for group in optimizer.param_groups]
    if scope == "group":
        return [torch.cat([p.flatten() for p in group]) for group in groups]
    flat = [p for group in groups for p in group]
    if scope == "global":
        return [torch.cat([p.flatten() for p in flat])]
    return [row.clone() for p in flat for row in rows(p, scope)]


def length_of(w: Tensor, now: Tensor, norm: str, floor: float) -> float:
    u = now - w
    if norm == "angular":
        a, b = w / w.norm(), now / now.norm()
        return float(2 * torch.atan2((a - b).norm(), (a + b).norm()))  # Kahan's, exact for small angles too
    size = {"l2": u.norm(), "rms": u.square().mean().sqrt(), "linf": u.abs().max()}
    return float(size.get(norm, u.norm() / max(float(w.norm()), floor * len(w) ** 0.5)))
