"""Results typed in by hand: what a report is made of, without any training."""

from dataclasses import replace

import torch

from truestep.compare.rank import Ranking, judge_protocol, kendall_tau
from truestep.compare.speed import PathTest, SpeedTest
from truestep.compare.statistics import Interval
from truestep.compare.swap import SwapTest

HOSTILE = "</script><img src=x onerror=alert(1)>"
STEPS = tuple(range(10, 310, 10))
MULTIPLIERS = (0.1, 0.316, 1.0, 3.16, 10.0, 1000.0)


def falling(*rates):
    """Losses [rates, 4 seeds, points] that fall at these rates, each seed a little apart."""
    t = torch.tensor(STEPS, dtype=torch.float64) / 100
    seeds = torch.tensor([-0.02, 0.0, 0.01, 0.02], dtype=torch.float64)[:, None]
    return torch.stack([2.3 * torch.exp(-rate * t + seeds) for rate in rates])


def speed():
    """A at 1.57 times its lr is B, within 3 %; at 1000 times it diverges."""
    losses_a = falling(0.1, 0.32, 1.0, 1.5, 2.0, 2.0)
    losses_a[-1, :, 3:] = torch.inf
    (b, again, fitted) = falling(1.57, 1.57, 1.56)
    return SpeedTest(
        *("digits-mlp", "Adam(lr=0.001)", "AdaBelief(lr=0.001)", 1e-3, 1e-3, 4, STEPS),
        *(1.567, (1.549, 1.584), 2.4, 9.0, 0.03, (0.027, 0.033), 0.51, 0.015, 0.05, 0.997, -0.0012, 0.0031),
        *(PathTest(0.34, 0.0063, 0.002), "SPED-UP", MULTIPLIERS, losses_a, b, again, fitted),
    )


def swap():
    arms = falling(1.0, 1.5, 1.05, 1.57)
    keys = (("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"))
    return SwapTest(
        *("digits-mlp", "Adam(lr=0.001)", "AdaBelief(lr=0.001)", 4, "l2", "global"),
        *(Interval(-0.513, -0.52, -0.506), Interval(-0.478, -0.486, -0.469), Interval(-0.035, -0.038, -0.032)),
        *(Interval(0.009, 0.007, 0.011), Interval(0.93, 0.92, float("inf")), STEPS, dict(zip(keys, arms, strict=True))),
    )


def make_ranking(names):
    """Three optimizers; the first two change places between the tuned and the matched protocol."""
    grid = dict.fromkeys(names, (0.01, 0.1, 1.0))
    base = torch.tensor([[1.0, 1.1, 0.9], [0.1, 0.12, 0.09], [0.5, torch.inf, 0.6]], dtype=torch.float64)
    tuned = {name: base * (1 + place) for place, name in enumerate(names)}
    matched = {name: base * (1 + abs(place - 1)) for place, name in enumerate(names)}
    single = dict.fromkeys(names, (0.1,))
    protocols = [
        judge_protocol("default lr", "lr", single, *[{n: v[1:2] for n, v in tuned.items()}] * 2, ceiling=1e3),
        judge_protocol("tuned lr", "lr", grid, tuned, tuned, ceiling=1e3, budgets=(1, 3)),
        judge_protocol("matched l2 global", "length", grid, matched, matched, ceiling=1e3),
    ]
    protocols[0] = replace(protocols[0], diverged=protocols[0].diverged | {names[1]: 0.25})
    levels = [p.levels for p in protocols]
    tau = torch.tensor([[kendall_tau(one, other) for other in levels] for one in levels], dtype=torch.float64)
    half = {p.name: float("nan") for p in protocols}
    return Ranking("digits-mlp", names, 3, 300, tuple(protocols), tau, half, ("the best lr of sgd is at the edge",))
