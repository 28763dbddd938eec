"""A small problem in float64, whose replicas can be trained in no time, and rules to train them by."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop

from truestep.compare import AdaBelief, Lion, SignSGD
from truestep.compare.problems import Problem, cross_entropy_loss, minibatches, seeded
from truestep.compare.training import Replica

STEPS = 8
REPLICAS = (Replica(0, 0), Replica(1, 1, 0.25), Replica(0, 2, 3), Replica(2, 1, 1.5))
SAME_SPEED = (Replica(0, 0), Replica(1, 1))
ENOUGH = 2 * SAME_SPEED  # for a stack to be worth it

RULES = {
    "sgd": partial(SGD, lr=0.1, weight_decay=0.01),
    "momentum": partial(SGD, lr=0.03, momentum=0.9, dampening=0.1),
    "nesterov": partial(SGD, lr=0.03, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": partial(Adam, lr=0.01, weight_decay=0.01),
    "amsgrad, foreach": partial(Adam, lr=0.01, amsgrad=True, foreach=True),
    "adamw": partial(AdamW, lr=0.01, weight_decay=0.1),
    "adamw, fused": partial(AdamW, lr=0.01, weight_decay=0.1, fused=True),
    "adamax": partial(Adamax, lr=0.01, weight_decay=0.01),
    "nadam": partial(NAdam, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "radam": partial(RAdam, lr=0.01, weight_decay=0.01),
    "rmsprop": partial(RMSprop, lr=0.003, momentum=0.9, centered=True, weight_decay=0.01),
    "adagrad": partial(Adagrad, lr=0.03, lr_decay=0.1, weight_decay=0.01),
    "adadelta": partial(Adadelta, lr=1.0, weight_decay=0.01),
    "signsgd": partial(SignSGD, lr=0.003, momentum=0.9, weight_decay=0.1),
    "lion": partial(Lion, lr=0.003, weight_decay=0.1),
    "adabelief": partial(AdaBelief, lr=0.01, weight_decay=0.1),
}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    return x, (x[:, :3] + 0.5 * torch.randn(40, 3, generator=generator, dtype=torch.float64)).argmax(1)


def probe() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(x[:20] for x in data())


def batches(seed: int) -> Iterator[tuple[torch.Tensor, ...]]:
    return minibatches(data(), 8, seed)


def mlp(seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def normalized(seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double()


def dropping(seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 3)).double()


def problem(**changes: Any) -> Problem:
    fields = {"build": mlp, "batches": batches, "loss_fn": cross_entropy_loss, "probe": probe}
    return Problem("small", **(fields | {"target": 0.5, "max_steps": STEPS} | changes))
