"""Two gloo processes under DDP, FSDP2 and a cut through the units: what the controls do to weights in parts.

`python -m tests.invariance.controls.ranks FOLDER` writes `FOLDER/<rank>.pt`, a dict of plain tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.gloo import fork
from tests.invariance.controls.runs import backward, batches, groups, invariant, net
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

from truestep.invariance.controls._exponential_twin import ExponentialTwin
from truestep.invariance.controls._hold_angle import HoldAngle
from truestep.invariance.controls._hold_effective_lr import HoldEffectiveLR
from truestep.invariance.controls._rescale import rescale
from truestep.invariance.controls._unit_sphere import UnitSphere

WORLD, STEPS = 2, 5
Attach = Callable[[Optimizer, dict[str, Tensor]], Any]
CONTROLS: dict[str, Attach] = {
    "sphere per unit": UnitSphere,
    "sphere per tensor": lambda optimizer, params: UnitSphere(optimizer, params, per="tensor", radius=2.0),
    "twin": lambda optimizer, params: ExponentialTwin(optimizer, params, limit=2),
    "effective lr": lambda optimizer, params: HoldEffectiveLR(optimizer, params, 0.02),
    "angle": lambda optimizer, params: HoldAngle(optimizer, params, 0.05),
    "rescale": lambda optimizer, params: rescale(optimizer, params, 3.0),
}
WAYS = ("alone", "ddp", "fsdp", "columns")


def laid_out(way: str, mesh: DeviceMesh | None) -> Any:
    """The net, whole or in parts; 13 units do not halve."""
    model = net(trained_head=True)
    model[0] = nn.Linear(12, 13, bias=False, dtype=torch.float64)
    model[1] = nn.BatchNorm1d(13, eps=1e-30, dtype=torch.float64)
    model[3] = nn.Linear(13, 16, bias=False, dtype=torch.float64)
    torch.manual_seed(4)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    if way == "ddp":
        return model, DistributedDataParallel(model)
    if way == "fsdp":
        return model, fully_shard(model, mesh=mesh)
    return model, model


def in_columns(model: nn.Module, mesh: DeviceMesh) -> dict[str, nn.Parameter]:
    """The invariant weights as DTensors that are cut through their units, as tensor parallelism cuts them."""
    whole = {name: p.detach() for name, p in invariant(model).items()}
    placed = {
        name: DTensor.from_local(_half(w, mesh), mesh, [Shard(1)], shape=w.shape, stride=w.stride())
        for name, w in whole.items()
    }
    return {name: nn.Parameter(w) for name, w in placed.items()}


def _half(w: Tensor, mesh: DeviceMesh) -> Tensor:
    return w.chunk(WORLD, dim=1)[mesh.get_local_rank()].clone()


def walk(way: str, attach: Attach, mesh: DeviceMesh | None) -> dict[str, Any]:
    """The invariant weights after some steps, whole."""
    model, wrapped = laid_out(way, mesh)
    parts = in_columns(model, mesh) if way == "columns" and mesh is not None else {}
    stepped = groups(model)
    if parts:
        stepped[0]["params"] = [*parts.values()]
    optimizer = SGD(stepped, lr=0.05, momentum=0.9, weight_decay=0.0)
    optimizer.param_groups[0]["weight_decay"] = 1.0 if attach is CONTROLS["twin"] else 0.0
    control = attach(optimizer, parts or invariant(model))
    for batch in batches(STEPS):
        if parts:
            _copy(model, parts)
        backward(wrapped, batch)  # every rank has the same batch: the mean of their gradients is the one of each
        for name, p in parts.items():
            grad = invariant(model)[name].grad
            assert grad is not None
            assert mesh is not None
            p.grad = DTensor.from_local(_half(grad, mesh), mesh, [Shard(1)], shape=grad.shape, stride=grad.stride())
        optimizer.step()
    found: dict[str, Any] = {name: _whole(p) for name, p in (parts or invariant(model)).items()}
    found["lr"] = optimizer.param_groups[0]["lr"]
    state = control.state_dict() if control is not None else {}
    if isinstance(control, UnitSphere):
        control.load_state_dict(state)
        optimizer.step()
        found["radii"] = state["radii"]
    return found


@torch.no_grad()
def _copy(model: nn.Module, parts: dict[str, nn.Parameter]) -> None:
    for name, p in invariant(model).items():
        p.copy_(_whole(parts[name]))


def _whole(p: Tensor) -> Tensor:
    p = p.detach()
    return (p.full_tensor() if isinstance(p, DTensor) else p).clone()


def see(_rank: int, _folder: Path) -> dict[str, Any]:
    """One rank's life."""
    mesh = init_device_mesh("cpu", (WORLD,))
    return {f"{way} {name}": walk(way, attach, mesh) for way in WAYS for name, attach in CONTROLS.items()}


if __name__ == "__main__":
    sys.exit(fork(see, WORLD, Path(sys.argv[1])))
