"""Two gloo processes that share batches and balance their tasks: `python -m tests.multitask.ranks FOLDER`.

Each writes `FOLDER/<rank>.pt`, by the name of what it did; the tests compare that with runs of one process.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.gloo import fork
from tests.multitask.nets import Net, Vectors, batch, net, step
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from truestep.multitask import Balancer
from truestep.multitask._dynamic_task_priority import DynamicTaskPriority
from truestep.multitask._gradnorm import GradNorm

WORLD, ROWS, STEPS = 2, 8, 3
UNEVEN = [5, 3]  # rows of each rank
PLACES: dict[str, dict[str, Any]] = {
    "z": {},
    "z, gram": {"gram": True},
    "weight": {"layer": True},
    "weight, gram": {"layer": True, "gram": True},
}


def balancer_of(model: Net, place: str = "z", **settings: Any) -> Balancer:
    """GradNorm without memory of norms."""
    layer = model.trunk[2] if PLACES[place].get("layer") else None
    return Balancer(GradNorm(1.0, smoothing=0), "abc", **(PLACES[place] | settings | {"layer": layer}))


def cut(seed: int, rows: list[int], part: int) -> tuple[Tensor, Vectors]:
    """One of the parts of a batch."""
    x, y = batch(sum(rows), seed=seed)
    return x.split(rows)[part], {task: target.split(rows)[part] for task, target in y.items()}


def numbers(balancer: Balancer) -> dict[str, Any]:
    """What the last update has seen and set."""
    report = balancer.report
    return {
        "weights": report.weights,
        "norms": report.norms,
        "ratios": report.ratios,
        "factors": [report.step_factor, report.trunk_factor],
        "state": str({k: v for k, v in balancer.state_dict().items() if "told" not in k}),
    }


def shared_batches(rank: int, place: str) -> list[dict[str, Any]]:
    """Uneven parts of each batch, without a wrapper; rank 1 lacks "b" at the third and everything at the fourth."""
    model = net()
    balancer = balancer_of(model, place)
    seen = []
    for seed in range(5):
        x, y = cut(seed, UNEVEN, rank)
        if rank and seed == 2:
            del y["b"]
        if rank and seed == 3:
            y = {}
        losses = model.losses(balancer.split(model.trunk(x)), y)
        balancer.total(losses, count=dict.fromkeys(y, len(x))).backward()
        seen.append(numbers(balancer))
    return seen


class Whole(nn.Module):
    """A user's model that splits in its forward pass; the balancer is a part of it."""

    def __init__(self, balancer: Any) -> None:
        super().__init__()
        self.net = net()
        self.balancer = balancer(self.net)

    def forward(self, x: Tensor, y: Vectors) -> tuple[Tensor, Vectors]:
        z = self.net.trunk(x)
        return z, self.net.losses(self.balancer.split(z), y)


class Heads(nn.Module):
    """The heads alone."""

    def __init__(self, model: Net) -> None:
        super().__init__()
        self.heads, self.losses = model.heads, model.losses

    def forward(self, views: Vectors, y: Vectors) -> Vectors:
        return self.losses(views, y)


def gradients(model: nn.Module) -> Vectors:
    """Copies of what is in `.grad`."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def inside(rank: int, place: str, *, unused: bool, lacks: str = "", accumulate: int = 1) -> list[Any]:
    """A wrapped model that splits inside; rank 1 lacks some tasks."""
    model = Whole(lambda plain: balancer_of(plain, place, accumulate=accumulate))
    ddp = DistributedDataParallel(model, find_unused_parameters=unused)
    seen = []
    for seed in range(STEPS):
        model.zero_grad()
        for micro in range(accumulate):
            x, y = cut(seed, [ROWS // WORLD] * WORLD * accumulate, WORLD * micro + rank)
            y = {t: target for t, target in y.items() if not (rank and t in lacks)}
            with ddp.no_sync() if micro < accumulate - 1 else contextlib.nullcontext():
                total = model.balancer.total(ddp(x, y)[1])
                total.backward()
        seen.append((numbers(model.balancer), gradients(model.net)))
    return seen


def outside(rank: int, place: str, *, unused: bool) -> list[Any]:
    """A wrapped trunk and wrapped heads, the split between them."""
    model = net()
    balancer = balancer_of(model, place)
    trunk, heads = (
        DistributedDataParallel(part, find_unused_parameters=unused) for part in (model.trunk, Heads(model))
    )
    seen = []
    for seed in range(STEPS):
        x, y = cut(seed, [ROWS // WORLD] * WORLD, rank)
        model.zero_grad()
        balancer.total(heads(balancer.split(trunk(x)), y)).backward()
        seen.append((numbers(balancer), gradients(model)))
    return seen


def static(rank: int) -> str:
    """What is said of DDP's static graph, which would reduce gradients in the heads' own pass."""
    model = Whole(balancer_of)
    ddp = DistributedDataParallel(model, static_graph=True)
    try:
        model.balancer.total(ddp(*cut(0, UNEVEN, rank))[1])
    except ValueError as error:
        return str(error)
    return ""


def kpis(rank: int) -> list[dict[str, float]]:
    """Rank 1 alone tells KPIs, then both do, then none; the balancer's buffers are broadcast by DDP."""
    rule = DynamicTaskPriority(smoothing=0)
    model = Whole(lambda _: Balancer(rule, "abc", normalize="none"))
    ddp = DistributedDataParallel(model)
    told = [[{}, {"a": 0.5, "b": 0.25}], [{"a": 0.1, "c": 0.3}, {"a": 0.2}], [{}, {}]]
    seen = []
    for seed in range(STEPS):
        if told[seed][rank]:
            model.balancer.kpi(told[seed][rank])
        model.balancer.total(ddp(*cut(seed, UNEVEN, rank))[1]).backward()
        seen.append(model.balancer.report.weights)
    return seen


def grouped(rank: int) -> dict[str, Any]:
    """Each rank in a group of its own, and both in one; copies of a balancer share its group."""
    alone = [dist.new_group([i]) for i in range(WORLD)][rank]
    both = dist.new_group([0, 1])
    model, seen = net(), {}
    for name, group in (("alone", alone), ("both", both)):
        balancer = balancer_of(model, "weight", group=group)
        step(model, balancer, *cut(0, [4, 4], rank))
        again = copy.deepcopy(balancer)
        seen[name] = (numbers(balancer), again.weigher.group is group)
    try:
        pickle.dumps(balancer)
    except Exception as error:
        seen["pickle"] = f"{type(error).__name__}: {error}"
    return seen


def refused(rank: int) -> list[str]:
    """What each rank says of a loss that is bad on rank 1 alone, in one micro-batch and in windows of two."""
    said = []
    for accumulate in (1, 2):
        model = net()
        balancer = balancer_of(model, "weight", accumulate=accumulate)
        for seed in range(4):
            x, y = cut(seed, [4, 4], rank)
            losses = model.losses(balancer.split(model.trunk(x)), y)
            if rank and seed == 1:
                losses["b"] = losses["b"] * torch.nan
            try:
                balancer.total(losses)
                said.append("")
            except ValueError as error:
                said.append(str(error))
    return said


def windows(rank: int, place: str) -> list[dict[str, Any]]:
    """Uneven micro-batches of uneven ranks."""
    model = net()
    balancer = balancer_of(model, place, accumulate=2)
    seen = []
    for seed in range(STEPS):
        for micro in range(2):
            x, y = cut(seed, [1, 4, 3, 2], 2 * micro + rank)
            balancer.total(model.losses(balancer.split(model.trunk(x)), y), count=dict.fromkeys(y, len(x)))
        seen.append(numbers(balancer))
    return seen


def see(rank: int, folder: Path) -> dict[str, Any]:
    """Everything, by name."""
    seen: dict[str, Any] = {}
    for place in PLACES:
        seen[f"shared, {place}"] = shared_batches(rank, place)
        seen[f"windows, {place}"] = windows(rank, place)
    for place in ("z", "weight"):
        for unused in (False, True):
            seen[f"inside, {place}, {unused}"] = inside(rank, place, unused=unused)
            seen[f"outside, {place}, {unused}"] = outside(rank, place, unused=unused)
            seen[f"no_sync, {place}, {unused}"] = inside(rank, place, unused=unused, accumulate=2)
    seen["lacks b"] = inside(rank, "z", unused=True, lacks="b")
    seen["lacks all"] = inside(rank, "z", unused=True, lacks="abc")
    return seen | {"kpis": kpis(rank), "groups": grouped(rank), "refused": refused(rank), "static": static(rank)}


if __name__ == "__main__":
    sys.exit(fork(see, WORLD, Path(sys.argv[1])))
