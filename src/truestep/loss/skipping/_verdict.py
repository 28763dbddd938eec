"""Whether an optimizer may use its gradients, told without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, Final

import torch
import torch.distributed as dist
from jaxtyping import Int64
from torch import Tensor

from truestep.core._additive import reduced
from truestep.core._sharding import is_distributed, local

REASONS: Final = ("not finite", "zero")


def verdict(grads: Sequence[Tensor], groups: Sequence[dist.ProcessGroup] = ()) -> Int64[Tensor, "2"]:
    """Two flags on the gradients' device: not finite anywhere, exactly zero everywhere; a good gradient has neither.

    Reads the gradients once and nothing on the host. The ranks of all `groups` judge together what they hold: each
    must call it, also without gradients, and gets the same answer. Where nobody has gradients there is no flag.

    Example:
        >>> verdict([torch.tensor([1.0, torch.nan])]), verdict([torch.zeros(2), torch.zeros(3)])
        (tensor([1, 0]), tensor([0, 1]))
    """
    seen = _seen(grads)
    for group in groups:
        seen = reduced(seen, group)
    not_finite, not_zero, some = (seen > 0).unbind()
    return torch.stack([not_finite, some & ~not_zero]).long()


def groups_of(params: Iterable[Tensor], group: dist.ProcessGroup | None) -> list[dist.ProcessGroup]:
    """Ranks that must judge together: `group`, and all that hold a part of a parameter (FSDP2, tensor parallel)."""
    if not (dist.is_available() and dist.is_initialized()):
        return []
    found: dict[Any, None] = {} if group is None else {group: None}
    for p in params:
        if is_distributed(p):
            mesh = p.device_mesh  # type: ignore[attr-defined]
            found.update(dict.fromkeys(mesh.get_group(dim) for dim in range(mesh.ndim)))
    return list(found)


def joined(flags: Int64[Tensor, "2"], found_inf: Tensor) -> Int64[Tensor, "2"]:
    """The flags with a gradient scaler's own finding: it may have seen gradients that were changed since."""
    not_finite = (flags[0] > 0) | (found_inf.to(flags.device) > 0).squeeze()
    return torch.stack([not_finite, ~not_finite & (flags[1] > 0)]).long()


def _seen(grads: Sequence[Tensor]) -> Tensor:
    """One where an element is not finite, where one is not zero (nan is not), and where there is a gradient."""
    home = grads[0].device if grads else _default_device()
    parts = [part for part in map(_elements, grads) if part.numel()]
    if not parts:
        return torch.tensor([0, 0, len(grads)], device=home)
    largest = torch.stack([size.to(home) for size in _sizes(parts)]).abs().amax()  # amax keeps a nan
    return torch.stack([~largest.isfinite(), largest != 0, torch.ones_like(largest, dtype=torch.bool)]).long()


def _sizes(parts: list[Tensor]) -> Sequence[Tensor]:
    """Numbers whose largest magnitude is that of all elements, nan where one is nan."""
    if all(part.device.type == "cpu" for part in parts):  # torch's norm of order inf is not vectorised here
        return [size for part in map(_real, parts) for size in torch.aminmax(part)]
    return torch._foreach_norm(parts, inf)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _elements(grad: Tensor) -> Tensor:
    """The entries on this rank; of a sparse gradient those stored, each index once."""
    if type(grad) is not Tensor:
        grad = local(grad)
    if grad.layout == torch.strided:
        return grad
    return grad.coalesce().values() if grad.layout == torch.sparse_coo else grad.values()


def _default_device() -> torch.device:
    """Where a rank without gradients takes part in what the others decide."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
