"""Random numbers from a seed, of everything that draws."""

from __future__ import annotations

import random
import sys
from collections.abc import Generator
from contextlib import contextmanager

import torch

from truestep.core._preserved import _random_state, _set_random_state  # pyright: ignore[reportPrivateUsage]


@contextmanager
def draws_from(seed: int) -> Generator[None, None, None]:
    """Within, torch, Python and numpy (where it is imported) draw from a seed; afterwards as if nothing had been drawn.

    Example:
        >>> import torch
        >>> def draw():
        ...     with draws_from(3):
        ...         return float(torch.rand(1)), random.random()
        >>> draw() == draw()
        True
    """
    before = _random_state()
    torch.manual_seed(seed)
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)
    try:
        yield
    finally:
        _set_random_state(before)
