"""Batch norm before the activation or after it: which of them trains in fewer steps."""

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

ACTIVATIONS: Final = ("relu", "logistic", "tanh")
ARMS: Final = ("none", "BN", "BN after")
SLOWER: Final = 1.1  # factor in steps that counts


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Steps of each arm."""
    out: Measurement = {}
    for activation in ACTIVATIONS:
        out |= measured(activation, ARMS, seed, device, steps)
    return out


def verdict(after: Sequence[Interval]) -> Verdict:
    """Of the log of steps with BN after over BN before, by activation."""
    if all(each.low > log(SLOWER) for each in after):
        return Verdict.SUPPORTED
    if any(each.low > log(SLOWER) for each in after):
        return Verdict.PARTLY
    return Verdict.REFUTED if all(each.high < log(SLOWER) for each in after) else Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Steps with BN after the activation over those with BN before it."""
    after = {name: ratio(measurements, f"{name}, BN after", f"{name}, BN") for name in ACTIVATIONS}
    told = [
        f"{times(each)} under {name}"
        f" ({' / '.join(mean_steps(measurements, f'{name}, {arm}') for arm in ARMS)} without norm / before / after)"
        for name, each in after.items()
    ]
    reason = (
        f"BN after the activation takes this many times the steps of BN before it: {', '.join(told)}. Small nets under"
        " full-batch gradient descent: speed alone, without the noise of batches, and nothing about test error."
    )
    return Judgement(verdict(list(after.values())), reason, after)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Steps of each arm."""
    return plot_steps(measurements, dict.fromkeys(ACTIVATIONS, ARMS))


CLAIM = Claim(
    name="bn_before_activation",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “A Wrinkle”",
    sentence="It generally works better to apply BN before the activation function, rather than after",
    threshold=(
        f"Full-batch gradient descent on digits, 20-14-14-14-10; steps until the loss is {REACHED} at the best of 20"
        f" lrs; {', '.join(ACTIVATIONS)}. SUPPORTED if at each the 95 % interval of steps with BN after over steps with"
        f" BN before lies above {SLOWER}; PARTLY if at some; REFUTED if at each it lies below {SLOWER}; INCONCLUSIVE"
        " else."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
