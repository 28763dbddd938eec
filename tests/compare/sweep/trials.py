"""Trials to sweep over, which workers import; run as a program it is the driver that the kill tests end."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from truestep.compare.sweep import Sweep

SECONDS = "TRIAL_SECONDS"  # of the environment: how long a trial sleeps, which is no part of what it computes
TRIALS = 200


def draw(number: int) -> dict[str, Any]:
    """A few steps of training, in bits that hang on the global random numbers and on the number of threads."""
    time.sleep(float(os.environ.get(SECONDS, "0")))
    weight, x = torch.randn(8, 4, requires_grad=True), torch.randn(16, 8)
    losses = []
    for _ in range(3):  # by hand: an optimizer's first step imports half of torch in every worker
        (loss := (x @ weight).square().mean()).backward()
        with torch.no_grad():
            weight -= 0.01 * (1 + number) * weight.grad
        weight.grad = None
        losses.append(loss.item())
    return {"number": number, "losses": losses, "drawn": random.random(), "threads": torch.get_num_threads()}


def fail(number: int) -> dict[str, Any]:
    raise ArithmeticError(f"number {number} is not to be had")


def die() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def die_once(number: int, flag: Path) -> dict[str, Any]:
    """Draw, but kill the worker the first time."""
    if not flag.exists():
        flag.touch()
        die()
    return draw(number)


def sleep(seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return {}


def draws(count: int = TRIALS) -> list[partial[dict[str, Any]]]:
    return [partial(draw, number) for number in range(count)]


def drive(store: str, workers: str, note: str) -> None:
    """Sweep as the head of a group of processes, whose number it leaves in a note."""
    os.setsid()
    written = Path(f"{note}.new")
    written.write_text(str(os.getpid()))
    written.rename(note)
    with Sweep(store, workers=int(workers)) as sweep:
        sweep.run(draws(), label="kills")


if __name__ == "__main__":
    from tests.compare.sweep import trials  # by its name: what is __main__'s would have another hash

    trials.drive(*sys.argv[1:])
