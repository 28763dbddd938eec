"""Covariate shift on several ranks, each with its own batches: python -m tests.conditioning.shift.ranks FOLDER."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from tests.conditioning.shift.nets import batches, loss_fn, normalized_net
from tests.gloo import fork
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from truestep.conditioning.shift import covariate_shift, slope

WORLD = 2


def see(rank: int, folder: Path) -> Any:
    """What this rank's shift is, and the one of all batches on one."""
    del folder
    torch.manual_seed(0)
    model, cut = normalized_net(), batches((5, 3, 7, 2))
    alone = torch.distributed.new_group([0]), torch.distributed.new_group([1])
    whole = covariate_shift(model, cut, loss_fn=loss_fn, group=alone[rank])
    found = covariate_shift(model, cut[:3] if rank == 0 else cut[3:], loss_fn=loss_fn)
    x = torch.randn(10, 4, 3, dtype=torch.float64)
    layer = nn.SyncBatchNorm(4).double()
    mine, together = slope(layer, x[:7] if rank == 0 else x[7:]), slope(nn.BatchNorm1d(4).double(), x)
    rows = {"shift": found.rows(), "whole": whole.rows(), "batches": found.batches}
    return rows | _sharded(model, cut, alone[rank]) | {"slope": mine, "whole slope": together}


def _sharded(model: nn.Sequential, cut: list[Any], group: Any) -> dict[str, Any]:
    """The same under FSDP2, after a forward pass that left its root unsharded."""
    sharded = copy.deepcopy(model)
    for part in (*(part for part in sharded if isinstance(part, nn.Linear)), sharded):
        fully_shard(part, mesh=init_device_mesh("cpu", (WORLD,)))
    sharded(cut[0][0])
    found = covariate_shift(sharded, cut, loss_fn=loss_fn, group=group)
    pairs = zip(sharded.parameters(), model.parameters(), strict=True)
    return {"sharded": found.rows(), "kept": all(bool((p.full_tensor() == old).all()) for p, old in pairs)}


if __name__ == "__main__":
    sys.exit(fork(see, WORLD, Path(sys.argv[1])))
