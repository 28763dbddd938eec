"""The balancer beside torch.compile: `python -m tests.multitask.compiled BACKEND` prints errors against plain runs.

By what is compiled: for each step the weights' largest relative error, and that of the gradient.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from tests.multitask.nets import UNITS, batch, descend, net

from truestep.multitask import Balancer
from truestep.multitask._gradnorm import GradNorm

KINDS = ("trunk, at its layer", "trunk and heads", "forward and total")


def run(kind: str, backend: str | None) -> list[tuple[dict[str, float], torch.Tensor]]:
    """Weights and gradient of three steps."""
    torch._dynamo.reset()

    def maybe(part: str, function: Any) -> Any:
        named = kind == part or part in kind.split(" and ") or kind.startswith(f"{part},")
        return torch.compile(function, backend=backend) if backend is not None and named else function

    model = net()
    balancer = Balancer(GradNorm(1.0), "abc", layer=model.trunk[2] if "layer" in kind else None)
    trunk = maybe("trunk", model.trunk)
    heads = {task: maybe("heads", head) for task, head in model.heads.items()}

    def losses_of(views: Any, y: Any) -> Any:
        return {t: UNITS[t] * (heads[t](views[t]) - y[t]).square().mean() for t in y}

    losses_of = maybe("losses", losses_of)

    def forward(x: Any, y: Any) -> Any:
        losses = losses_of(balancer.split(trunk(x)), y)
        return balancer.total(losses) if kind == "forward and total" else losses

    forward = maybe("forward", forward)
    found = []
    for seed in range(3):
        out = forward(*batch(seed=seed))
        model.zero_grad()
        (out if kind == "forward and total" else balancer.total(out)).backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        found.append((balancer.report.weights, gradient))
        descend(model)
    return found


def errors(kind: str, backend: str) -> list[tuple[float, float]]:
    """Of the compiled run against the plain one."""
    out = []
    for (w, g), (v, h) in zip(run(kind, backend), run(kind, None), strict=True):
        out.append((max(abs(w[t] / v[t] - 1) for t in v), float((g - h).norm() / h.norm())))
    return out


if __name__ == "__main__":
    print(json.dumps({kind: errors(kind, sys.argv[1]) for kind in KINDS}))
