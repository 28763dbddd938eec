"""Norm layers with less eps, so that what it breaks is told from what is broken without it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from torch import nn

NAMES: Final = ("eps", "epsilon", "variance_epsilon")  # torch's, Flax's and transformers' word
LARGEST: Final = 1e-3  # what is larger is no guard of a denominator
LESS: Final = 256.0


@contextmanager
def less_eps(model: nn.Module) -> Generator[None, None, None]:
    """Divide the eps of norm layers by `LESS`, and put it back; an eps written into code is not found.

    Example:
        >>> norm = nn.LayerNorm(2, eps=1e-5)
        >>> with less_eps(norm):
        ...     norm.eps * LESS
        1e-05
        >>> norm.eps
        1e-05
    """
    found = [(m, name, x) for m in model.modules() for name in NAMES if 0 < (x := _eps(m, name)) <= LARGEST]
    try:
        for module, name, eps in found:
            setattr(module, name, eps / LESS)
        yield
    finally:
        for module, name, eps in found:
            setattr(module, name, eps)


def _eps(module: nn.Module, name: str) -> float:
    value = vars(module).get(name)
    return value if isinstance(value, float) else 0.0
