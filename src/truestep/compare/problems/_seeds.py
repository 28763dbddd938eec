"""Two streams of random numbers for each seed: one for weights, one for data; both drawn on the CPU."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


def weight_stream(seed: int) -> torch.Generator:
    """Numbers for weights; no seed shares its stream with any seed's `data_stream`.

    Example:
        >>> import torch
        >>> bool(torch.rand(1, generator=weight_stream(3)) == torch.rand(1, generator=data_stream(3)))
        False
    """
    return torch.Generator().manual_seed(2 * seed)


def data_stream(seed: int) -> torch.Generator:
    """Numbers for the data: their order, or their noise."""
    return torch.Generator().manual_seed(2 * seed + 1)


@contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Draw torch's own initial weights from a seed; the CPU's global random numbers go on as if nothing had been drawn.

    Example:
        >>> import torch
        >>> def build(seed):
        ...     with seeded(seed):
        ...         return torch.nn.Linear(3, 2)
        >>> bool((build(1).weight == build(1).weight).all()), bool((build(1).weight == build(2).weight).any())
        (True, False)
    """
    before = torch.get_rng_state()
    torch.set_rng_state(weight_stream(seed).get_state())  # torch.manual_seed would seed the GPUs too
    try:
        yield
    finally:
        torch.set_rng_state(before)
