"""What a run says about itself when it starts: versions, command, seed, git state; names and kinds of its blocks."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
import uuid
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.core._names import bare, unwrapped


def run_facts(world_size: int, device: str) -> dict[str, str]:
    """Meta data of a run, each value as text."""
    import truestep

    return {
        "id": uuid.uuid4().hex,
        "created": repr(time.time()),
        "status": "running",
        "truestep": truestep.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": json.dumps(sys.argv),
        "seed": str(torch.initial_seed()),
        "device": device,
        "world_size": str(world_size),
        "git": _git(),
    }


def _git() -> str:
    """Commit and whether files differ from it, as JSON; empty outside a repository or without git."""
    try:
        commit, dirty = (
            subprocess.run(["git", *words], capture_output=True, text=True, timeout=2, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return json.dumps({"commit": commit, "dirty": bool(dirty)})


def kinds(model: nn.Module) -> dict[str, str]:
    """Class of the owning module and the parameter's own name, "Conv2d.weight", by parameter name."""
    found: dict[str, str] = {}
    for prefix, module in unwrapped(model).named_modules():
        for name, _ in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            found.setdefault(bare(full), f"{_class_name(module)}.{name}")
    return found


def settings(optimizer: Optimizer) -> str:
    """Settings of the parameter groups without their parameters, as JSON."""
    groups = [
        {key: _plain(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    return json.dumps(groups)


def _class_name(module: nn.Module) -> str:
    """Name of the user's class; `fully_shard` puts one of its own before it."""
    own, base = type(module).__mro__[:2]
    return type(module).__mro__[2].__name__ if base.__name__ == "FSDPModule" else own.__name__


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
