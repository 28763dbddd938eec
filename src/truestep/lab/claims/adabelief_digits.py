r"""AdaBelief against Adam on digits: the speed test, in small batches and in one large one, and the swap test.

The speed test trains Adam at many multiples of its lr and asks which one's loss curve is nearest to AdaBelief's: within
5 % of the loss they count as one, or within 1.5 times what another order of the data does. In batches of 64 noise rules
the gradient, and `adabelief_speed` says that the factor should hardly vary: one to two. In the full batch there is no
noise, and by `adabelief_growth` it should grow with time, so that no one factor fits. The swap test trains with the
directions of each at the lengths of each, and shares out the change of the mean log loss among the two.

Two contrasts: Adam at ten times its lr must be found to be Adam at ten times its lr, and RMSprop must not be found to
be Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.optim import Adam, RMSprop

from truestep.compare import AdaBelief, Problem
from truestep.compare._factory import OptimizerFactory
from truestep.compare.problems import digits_mlp
from truestep.compare.speed import SpeedTest
from truestep.compare.speed._judge import Runs
from truestep.compare.speed._judge import judge as judge_speed
from truestep.compare.speed._run import largest_lag
from truestep.compare.speed._speed_test import percent
from truestep.compare.swap import SwapEffects, swap_effects
from truestep.compare.training import Grafted, Replica, train
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LR: Final = 1e-3
STEPS: Final = 300
POINTS: Final = 30
MULTIPLIERS: Final = tuple(10 ** (k / 4) for k in range(-2, 7))  # .3 to 32
MARGIN: Final = 0.05  # nats of the loss that count as equal
TENFOLD: Final = (9.0, 11.0)  # what must be found of Adam at ten times the lr
ORDERS: Final = 1000  # between the data orders of Adam, of its rival, and of the rival's second copy
CEILING: Final = 1e4  # a loss above which a run counts as diverged
PROBLEMS: Final[dict[str, Callable[..., Problem]]] = {
    "batch": digits_mlp,
    "full": partial(digits_mlp, batch_size=1200),
}
RIVALS: Final[dict[str, tuple[str, OptimizerFactory]]] = {  # on which problem, and what
    "batch_belief": ("batch", partial(AdaBelief, lr=LR)),
    "full_belief": ("full", partial(AdaBelief, lr=LR)),
    "tenfold": ("batch", partial(Adam, lr=10 * LR)),
    "rmsprop": ("batch", partial(RMSprop, lr=LR)),
}
ADAM: Final[OptimizerFactory] = partial(Adam, lr=LR)
BELIEF: Final[OptimizerFactory] = partial(AdaBelief, lr=LR)
ARMS: Final = ("aa", "ab", "ba", "bb")  # whose direction, whose length; a is Adam


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Loss curves of Adam at all multiples, of each rival and its second copy; mean log losses of the four arms."""
    out: Measurement = {}
    for name, make in PROBLEMS.items():
        problem = make(device=device)
        slow = train(problem, ADAM, [Replica(seed, seed, c) for c in MULTIPLIERS], steps=steps, points=POINTS)
        out |= {f"{name}_adam_{i}": _numbers(losses) for i, losses in enumerate(slow.losses)}
        out |= {f"{name}_start": problem.probe_loss(problem.build(seed)), f"{name}_steps": [*map(float, slow.steps)]}
        copies = [Replica(seed, ORDERS + seed), Replica(seed, 2 * ORDERS + seed)]
        for rival, (where, build) in RIVALS.items():
            if where == name:
                first, second = train(problem, build, copies, steps=steps, points=POINTS).losses
                out |= {rival: _numbers(first), f"{rival}_again": _numbers(second)}
    problem = digits_mlp(device=device)
    for arm in ARMS:
        direction, length = ({"a": ADAM, "b": BELIEF}[each] for each in arm)
        control = None if direction is length else Grafted(length)
        losses = train(problem, direction, [Replica(seed, seed)], steps=steps, points=POINTS, control=control).losses
        out[f"arm_{arm}"] = losses.log().mean().item()
    return out


def speed(measurements: Sequence[Measurement], rival: str) -> SpeedTest:
    """The room's own speed test, on the curves of all seeds."""
    where, build = RIVALS[rival]
    adam = torch.stack([_tensor(measurements, f"{where}_adam_{i}") for i in range(len(MULTIPLIERS))])
    runs = Runs(
        problem=where,
        a="Adam",
        b=rival,
        lr_a=LR,
        lr_b=LR,
        largest_lag=largest_lag(ADAM, build),
        ceiling=CEILING,
        steps=tuple(map(int, curves(measurements, f"{where}_steps")[0])),
        multipliers=MULTIPLIERS,
        start=torch.tensor(scalars(measurements, f"{where}_start"), dtype=torch.float64),
        losses_a=adam,  # [multipliers, seeds, points]
        losses_b=_tensor(measurements, rival),
        losses_b_again=_tensor(measurements, f"{rival}_again"),
    )
    return judge_speed(runs, runs.fit(), MARGIN)


def effects(measurements: Sequence[Measurement]) -> SwapEffects:
    """What AdaBelief's lengths and directions do to Adam's mean log loss, seed by seed."""
    y = torch.tensor([scalars(measurements, f"arm_{arm}") for arm in ARMS], dtype=torch.float64)
    return swap_effects(y.unflatten(0, (2, 2)))


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The contrasts first, then AdaBelief in small batches and in the full one."""
    tests = {rival: speed(measurements, rival) for rival in RIVALS}
    small, full, tenfold, other = (tests[r] for r in ("batch_belief", "full_belief", "tenfold", "rmsprop"))
    equal = [test.verdict in ("SAME", "SPED-UP") for test in (small, full)]
    unlike = [test.verdict == "DIFFERENT" for test in (small, full)]
    found = tenfold.verdict == "SPED-UP" and TENFOLD[0] <= tenfold.multiplier <= TENFOLD[1]
    if not found or other.verdict in ("SAME", "SPED-UP"):
        verdict = Verdict.INCONCLUSIVE
    elif all(equal):
        verdict = Verdict.SUPPORTED
    elif all(unlike):
        verdict = Verdict.REFUTED
    elif any(equal) and any(unlike):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    swap = effects(measurements)
    total, length, direction = (t_interval(each.tolist()) for each in (swap.total, swap.length, swap.direction))
    grows = ", so the factor grows on the way" if full.early < 0 < full.late else ""
    reason = (
        f"Nearest to AdaBelief is, in batches of 64, Adam at {_told(small)}; in the full batch, at {_told(full)};"
        f" there Adam's loss is off by {full.early:+.2g} nats in the first half and by {full.late:+.2g} in the second"
        f"{grows}. In batches of 64 AdaBelief changes Adam's mean log loss by {total} nats: by"
        f" {length} through its steps' length, by {direction} through their direction. Contrasts: nearest to Adam at"
        f" ten times its lr is Adam at {_told(tenfold)}; to RMSprop, at {_told(other)}."
    )
    intervals: dict[str, Interval] = {"swap_total": total, "swap_length": length, "swap_direction": direction}
    for rival, test in tests.items():
        intervals[f"{rival}_factor"] = Interval(test.multiplier, *test.interval)
        intervals[f"{rival}_residual"] = Interval(test.residual, *test.residual_interval)
    numbers = {f"{rival}_floor": test.floor for rival, test in tests.items()}
    return Judgement(verdict, reason, intervals, numbers)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Left and middle: loss curves in small batches and in the full one; right: the swap's effects."""
    figure, (*axes, right) = panels(3)
    for axis, (rival, title) in zip(
        axes, (("batch_belief", "batches of 64"), ("full_belief", "full batch")), strict=True
    ):
        test = speed(measurements, rival)
        lines = {
            "Adam": (test.losses_a[MULTIPLIERS.index(1.0)], GREY, "-"),
            f"Adam, lr x {test.multiplier:.3g}": (test.fitted, BLUE, "-"),
            "AdaBelief": (test.losses_b, ORANGE, "--"),
        }
        for label, (losses, color, dash) in lines.items():
            axis.plot(test.steps, losses.T, dash, color=color, lw=0.7)
            axis.plot([], [], dash, color=color, label=label)
        axis.set(yscale="log", xlabel="step", ylabel="loss on the probe", title=f"{title}: {test.verdict}")
        axis.legend()
    swap = effects(measurements)
    names = ("total", "length", "direction")
    for i, name in enumerate(names):
        values = getattr(swap, name).tolist()
        right.plot([i] * len(values), values, "o", color=BLUE, ms=3)
    right.axhline(0, color=GREY, lw=0.8)
    right.set_xticks(range(len(names)), names)
    right.set(ylabel="change of the mean log loss, nats", title="AdaBelief in Adam's place")
    return figure


def _numbers(losses: Tensor) -> list[float]:
    """For JSON, which has no inf: a run that diverged is above the ceiling."""
    return losses.nan_to_num(nan=2 * CEILING, posinf=2 * CEILING).tolist()


def _tensor(measurements: Sequence[Measurement], name: str) -> Tensor:
    return torch.tensor(curves(measurements, name), dtype=torch.float64)  # [seeds, points]


def _told(test: SpeedTest) -> str:
    low, high = test.interval
    return (
        f"{test.multiplier:.3g} [{low:.3g}, {high:.3g}] times its lr, {percent(test.residual)} of the loss apart (two"
        f" orders of the data: {percent(test.floor)}; {test.verdict})"
    )


CLAIM = Claim(
    name="adabelief_digits",
    source="000: The case for unit-normalized loss, section “But why?”",
    sentence=(
        "from the video AdaBelief looks like it's Adam just sped up. So we can't tell if AdaBelief is just Adam with"
        " 10x learning-rate or if it's actually being intelligent about it's speed."
    ),
    threshold=(
        f"Speed test on digits, lr {LR:g}, {STEPS} steps. SUPPORTED if AdaBelief is Adam at some multiple of the lr, to"
        f" {MARGIN:g} nats of the loss or 1.5 times the seeds' floor, in batches of 64 and in the full batch; PARTLY if"
        f" in one and surely not in the other; REFUTED if surely in neither; INCONCLUSIVE otherwise, or if Adam at 10"
        f" times the lr is not found to be that ({TENFOLD[0]:g} to {TENFOLD[1]:g}), or RMSprop is found to be Adam."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=8,
)
