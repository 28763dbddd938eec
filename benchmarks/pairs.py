"""Interleaved comparison: every arm takes its turn in every round, and what is compared are ratios within a round.

A machine's speed drifts by more than what is measured here, so absolute times are not compared. CPU time of the
process is counted beside wall time: it holds the record's writer thread too, and leaves out what others run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median over rounds of an arm's time over the first arm's, with a 95 % bootstrap interval; in per cent."""

    cpu: float
    low: float
    high: float
    wall: float
    rounds: int

    @property
    def width(self) -> float:
        return self.high - self.low

    def __str__(self) -> str:
        return f"{self.cpu:+6.2f} % [{self.low:+.2f}, {self.high:+.2f}] (wall {self.wall:+.2f} %)"


def compare(arms: Mapping[str, Callable[[], None]], *, width: float, seconds: float) -> dict[str, Ratio]:
    """Run all arms in a new order each round, until every interval is narrower than `width` per cent, or `seconds`.

    The first arm is what the others are divided by; a second copy of it among them shows the noise. An arm that works
    in a thread must wait for it before it returns, so that no other arm's turn is charged with it.
    """
    names, order = list(arms), random.Random(0)
    cpu: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    while True:
        for name in order.sample(names, len(names)):
            before = time.process_time(), time.perf_counter()
            arms[name]()
            cpu[name].append(time.process_time() - before[0])
            wall[name].append(time.perf_counter() - before[1])
        found = {name: ratio(cpu[name], cpu[names[0]], wall[name], wall[names[0]]) for name in names[1:]}
        done = len(cpu[names[0]])
        if done >= 10 and (time.perf_counter() - start > seconds or all(r.width < width for r in found.values())):
            return found


def ratio(cpu: list[float], cpu_base: list[float], wall: list[float], wall_base: list[float]) -> Ratio:
    """Median ratio in per cent above 1, and its bootstrap interval over rounds."""
    ratios = torch.tensor([100 * (a / b - 1) for a, b in zip(cpu, cpu_base, strict=True)], dtype=torch.float64)
    walls = [100 * (a / b - 1) for a, b in zip(wall, wall_base, strict=True)]
    draws = torch.randint(len(ratios), (4000, len(ratios)), generator=torch.Generator().manual_seed(0))
    low, high = ratios[draws].median(1).values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Ratio(float(ratios.median()), low, high, median(walls), len(ratios))
