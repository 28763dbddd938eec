"""A run and the twin of its copy, and the decoupled decay that torch's SGD does not have."""

from typing import Any

import torch
from tests.invariance.controls.runs import (
    groups,
    invariant,
    net,
)
from torch import nn
from torch.optim import SGD

from truestep.invariance.controls._exponential_twin import ExponentialTwin

SETTINGS: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


class SGDW(SGD):
    """Decoupled decay, which torch's SGD does not have; the step of a base inside that of a subclass."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            for p in group["params"]:
                p.mul_(1 - group["lr"] * decay)
            group["weight_decay"] = 0.0
        loss = super().step(closure)
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay
        return loss


def pair(
    *,
    trained_head: bool = False,
    decoupled: bool = False,
    rule: Any = SGD,
    twin_rule: Any = None,
    limit: float = 256,
    **settings: Any,
) -> tuple[nn.Module, Any, nn.Module, Any, ExponentialTwin]:
    """The run, and the twin of a copy."""
    run, other = net(trained_head=trained_head), net(trained_head=trained_head)
    settings = {**SETTINGS, **settings}
    optimizer, twin_optimizer = rule(groups(run), **settings), (twin_rule or rule)(groups(other), **settings)
    twin = ExponentialTwin(twin_optimizer, invariant(other), decoupled=decoupled, limit=limit)
    return run, optimizer, other, twin_optimizer, twin
