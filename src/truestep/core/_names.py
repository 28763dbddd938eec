"""Parameters by the names they have in the bare model, whatever wraps it."""

from __future__ import annotations

from torch import Tensor, nn

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")  # torch.compile, checkpointing, FSDP


def named_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by the name they have in the bare model, whatever wraps it (DDP, torch.compile, checkpointing).

    A tied parameter stands once, under its first name.

    Example:
        >>> list(named_parameters(nn.DataParallel(nn.Linear(2, 1))))
        ['weight', 'bias']
    """
    return {bare(name): p for name, p in unwrapped(model).named_parameters()}


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DDP and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model


def bare(name: str) -> str:
    """The name without what wrappers put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name
