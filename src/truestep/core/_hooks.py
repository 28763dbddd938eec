"""What an optimizer's step hooks need to know about the call they sit in."""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

import torch
from torch.optim import Optimizer


def not_compiled(function: Any) -> Any:
    """`function` as torch.compile must leave it, with all that it calls; costs half a microsecond a call."""
    return torch.compiler.disable(function)


def skipped_by_compiler(function: Any) -> Any:
    """`function` itself, marked so that torch.compile breaks its graph there and leaves it as it is.

    torch.compiler.disable would do the same with one more call in between, on every step of every run.
    """
    from torch._dynamo.decorators import skip

    return skip(function)


def check_hooks(optimizer: Any) -> None:
    """Raise a ValueError naming the inner optimizer where `optimizer` is a wrapper that takes no step hooks."""
    if isinstance(optimizer, Optimizer) and hasattr(optimizer, "_optimizer_step_pre_hooks"):
        return
    kind = type(optimizer).__name__
    for name, inner in _attributes(optimizer):
        if isinstance(inner, Optimizer) and hasattr(inner, "_optimizer_step_pre_hooks"):
            msg = f"`optimizer` is a {kind}, a wrapper without step hooks; pass the optimizer inside it: `.{name}`"
            raise ValueError(msg)
    msg = f"`optimizer` must be a torch.optim.Optimizer (it needs step hooks), found {kind}"
    raise ValueError(msg)


def _attributes(wrapper: Any) -> list[tuple[str, Any]]:
    """Attributes of a wrapper, `optimizer` first, the public before the private."""
    found = dict(vars(wrapper)) if hasattr(wrapper, "__dict__") else {}
    found = {"optimizer": getattr(wrapper, "optimizer", None), **found}
    return sorted(found.items(), key=lambda item: (item[0] != "optimizer", item[0].startswith("_")))


def inside_step(optimizer: Optimizer) -> bool:
    """Whether an earlier step of this optimizer is still on the stack (else it ended in an exception)."""
    frame, seen = sys._getframe(2), 0  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if frame.f_code.co_name == "wrapper" and frame.f_locals.get("self") is optimizer:
            seen += 1
        frame = frame.f_back
    return seen > 1


def capturing(optimizer: Optimizer) -> bool:
    """Whether the step is being captured into a CUDA graph: measuring would end the capture; replays are not seen."""
    return _device(optimizer).type == "cuda" and torch.cuda.is_current_stream_capturing()


def warn(message: str, stacklevel: int = 3) -> None:
    """Warn without ever raising into the training loop, also where warnings are errors."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)
    except RuntimeWarning:
        sys.stderr.write(f"{message}\n")


def now(optimizer: Optimizer) -> float:
    """Seconds, after the device has done what it was given: a recorded step may wait, so that its cost is true."""
    device = _device(optimizer)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _device(optimizer: Optimizer) -> torch.device:
    """Where the optimizer's first parameter lies; the CPU where it has none."""
    first = next((p for group in optimizer.param_groups for p in group["params"]), None)
    return torch.device("cpu") if first is None else first.device
