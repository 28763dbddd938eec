"""Public multi-task balancers as their documentation has them used, to stand beside ours in the same run.

gradnorm-pytorch 0.2.3 and TorchJD 0.18 with their usual packages; of LibMTL 1.1.5 (`pip install --no-deps LibMTL`) the
weightings alone, since the package itself imports torchvision, and a Trainer of its own is no plain loop.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.models import Tasks

Step = Callable[[], None]


def gradnorm_pytorch(job: Tasks) -> Step:
    """Double backward to the last shared weight."""
    from gradnorm_pytorch import GradNormLossWeighter

    weighter = GradNormLossWeighter(
        num_losses=len(job.heads), learning_rate=1e-3, restoring_force_alpha=0.5, grad_norm_parameters=job.last.weight
    )

    def step() -> None:
        job.optimizer.zero_grad()
        weighter(job.losses(job.trunk(job.x)))
        job.optimizer.step()

    return step


def upgrad(job: Tasks) -> Step:
    """TorchJD's UPGrad of the Jacobian of all shared parameters."""
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    aggregator = UPGrad()

    def step() -> None:
        job.optimizer.zero_grad()
        z = job.trunk(job.x)
        mtl_backward(job.losses(z), features=z)
        jac_to_grad(job.trunk.parameters(), aggregator)
        job.optimizer.step()

    return step


def libmtl(job: Tasks) -> Step:
    """LibMTL's GradNorm over all shared parameters, after its first epoch, as its Trainer calls it."""
    weighting = _libmtl_weighting().GradNorm()
    shared = list(job.trunk.parameters())
    weighting.task_num, weighting.device = len(job.heads), torch.device("cpu")
    weighting.rep_grad, weighting.epoch = False, 1
    weighting.get_share_params = lambda: shared
    weighting.zero_grad_share_params = lambda: [p.grad.zero_() for p in shared]
    weighting.init_param()
    weighting.train_loss_buffer = torch.ones(len(job.heads), 2).numpy()

    def step() -> None:
        job.optimizer.zero_grad()
        type(weighting).backward(weighting, torch.stack(job.losses(job.trunk(job.x))), alpha=0.5)
        job.optimizer.step()

    return step


def _libmtl_weighting() -> Any:
    """The subpackage without its parent, which needs torchvision."""
    spec = importlib.util.find_spec("LibMTL")
    if spec is None:
        raise ImportError("LibMTL is not installed: pip install --no-deps LibMTL")
    parent = types.ModuleType("LibMTL")
    parent.__path__ = list(spec.submodule_search_locations or [])
    parent.__spec__ = importlib.machinery.ModuleSpec("LibMTL", None, is_package=True)
    sys.modules["LibMTL"] = parent
    return importlib.import_module("LibMTL.weighting.GradNorm")


PEERS: dict[str, Callable[[Tasks], Step]] = {
    "gradnorm-pytorch, at a weight": gradnorm_pytorch,
    "TorchJD UPGrad": upgrad,
    "LibMTL GradNorm": libmtl,
}
