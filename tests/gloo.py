"""Real gloo processes on one machine: a script forks its ranks, each saves what it saw, and a test reads it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests import forked

PATIENCE = timedelta(seconds=120)


def seen_by_ranks(module: str, world: int, folder: Path, *arguments: str, **environment: str) -> list[Any]:
    """Run `python -m module FOLDER ARGUMENTS`, which calls `fork`, and return what each rank saw."""
    done = forked.run("-m", module, folder, *arguments, warn="ignore", **environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def fork(see: Callable[[int, Path], Any], world: int, folder: Path, *, connect: bool = True) -> int:
    """Fork the ranks from this process, which has imported everything once for all; returns the worst exit code.

    Args:
        see: What a rank does, of its number and the folder; its result is saved as `<rank>.pt`.
        world: Number of ranks.
        folder: Where they meet and save.
        connect: Whether to make the process group; else `see` makes it.
    """
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_live, args=(see, rank, world, folder, connect)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)


def _live(see: Callable[[int, Path], Any], rank: int, world: int, folder: Path, connect: bool) -> None:
    if connect:
        store = f"file://{folder / 'store'}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=PATIENCE)
    torch.save(see(rank, folder), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
