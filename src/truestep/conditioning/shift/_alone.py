"""A model to be looked at: as it was written while one looks, and as it was when one is done."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from truestep.core._preserved import preserved


@contextmanager
def alone(model: nn.Module) -> Generator[None, None, None]:
    """The model as it was written, and afterwards as it was.

    FSDP2 shards its root only when a backward pass ends; what `preserved` keeps must be the shards, before and after.
    """
    _reshard(model)
    with preserved(model), _eager():
        try:
            yield
        finally:
            _reshard(model)


def _reshard(model: nn.Module) -> None:
    kind: Any = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", ())
    parts: list[Any] = [module for module in model.modules() if isinstance(module, kind)]
    for part in parts:
        part.reshard()


def _eager() -> AbstractContextManager[Any]:
    """Runs compiled parts as they were written: a graph does not see hooks that came after it (torch 2.6 and later)."""
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled, and to import it takes seconds
        return nullcontext()
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")
