"""Give each unit another mean and scale behind batch norm, and see whether the net trains as fast.

Once for good ("moved"), as the lecture's sentence has it; or drawn anew at each step, and a little for each sample, as
Santurkar et al. did: mean from U(-0.5, 0.5), scale from U(1, 1.25), jitter 0.1. Losses are read without the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Final

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict
from truestep.lab._covariate_shift import REACHED, STEPS
from truestep.lab._interval import Interval
from truestep.lab._steps import mean_steps, measured, plot_steps, ratio, times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS: Final = ("relu", "logistic", "tanh + 1")
ARMS: Final = ("none", "BN", "BN + moved", "BN + noise")
SAME: Final = 1.25  # factor in steps up to which two trainings are as fast


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Steps of each arm."""
    out: Measurement = {}
    for activation in ACTIVATIONS:
        out |= measured(activation, ARMS, seed, device, steps)
    return out


def verdict(fixed: Sequence[Interval], redrawn: Sequence[Interval], none: Sequence[Interval]) -> Verdict:
    """Of the log of steps over those of plain BN, by activation."""
    if any(each.low <= 0 for each in none):
        return Verdict.INCONCLUSIVE
    bound = log(SAME)
    if all(each.high < bound for each in (*fixed, *redrawn)):
        return Verdict.SUPPORTED
    if all(each.high < bound for each in fixed) or all(each.high < bound for each in redrawn):
        return Verdict.PARTLY
    slow = any(each.low > bound for each in fixed) and any(each.low > bound for each in redrawn)
    return Verdict.REFUTED if slow else Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Steps over those of plain BN."""
    none, fixed, redrawn = (
        {name: ratio(measurements, f"{name}, {arm}", f"{name}, BN") for name in ACTIVATIONS}
        for arm in ("none", "BN + moved", "BN + noise")
    )
    told = [
        f"{name}: {times(fixed[name])} with a mean and scale for good, {times(redrawn[name])} with ones drawn anew at"
        f" each step, {times(none[name])} without norm"
        f" ({' / '.join(mean_steps(measurements, f'{name}, {arm}') for arm in ('BN', *ARMS[2:], 'none'))} steps)"
        for name in ACTIVATIONS
    ]
    intervals = {f"{name}: moved": each for name, each in fixed.items()}
    intervals |= {f"{name}: noise": each for name, each in redrawn.items()}
    intervals |= {f"{name}: none": each for name, each in none.items()}
    found = verdict(list(fixed.values()), list(redrawn.values()), list(none.values()))
    return Judgement(found, f"Steps over those of BN: {'; '.join(told)}.", intervals)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Steps of each arm."""
    return plot_steps(measurements, dict.fromkeys(ACTIVATIONS, ARMS))


CLAIM = Claim(
    name="noise_after_bn",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “A Wrinkle”",
    sentence=(
        "I.e., after BN, linearly transform the activations to have some other mean and variance … The network still"
        " trained just as efficiently"
    ),
    threshold=(
        f"Full-batch gradient descent on digits, 20-14-14-14-10; steps until the loss is {REACHED}, read without noise,"
        f" at the best of 20 lrs; {', '.join(ACTIVATIONS)}; behind BN another mean, from U(-0.5, 0.5), and scale, from"
        f" U(1, 1.25), of each unit, for good or drawn anew at each step. SUPPORTED if at each the 95 % intervals of"
        f" steps over those of BN lie below {SAME} either way; PARTLY if one way; REFUTED if either way some interval"
        f" lies above {SAME}; INCONCLUSIVE else, or if BN does not train faster than none."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
