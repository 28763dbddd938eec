"""Does batch norm help because activations are no longer shifted? Shift them again behind it, and train.

A number of its own is added to each unit behind its activation, N(0, 1), once and for good. The next layer's input then
has a larger mean than in the net without norm, and yet BN in the next layer, before its activation, does not see it.
The same shift without norm is the contrast: it must slow training there, or it is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._covariate_shift import STEPS
from truestep.lab._interval import Interval, t_interval
from truestep.lab._shift_at_start import shift_at_start
from truestep.lab._steps import logs, mean_steps, measured, plot_steps, ratio, times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS: Final = ("relu", "logistic", "tanh + 1")
ARMS: Final = ("none", "none + ICS", "BN", "BN + ICS")
HALF: Final = 0.5  # of BN's gain


class Activation(NamedTuple):
    """What one activation shows; intervals of logs of ratios of steps."""

    gained: Interval  # none over BN
    shifted: Interval  # none over BN + ICS
    most: Interval  # log of shifted less HALF x log of gained
    harm: Interval  # none + ICS over none
    nu: Interval  # of BN + ICS over that of none


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Steps of each arm, and how shifted the hidden layers' inputs are at the start."""
    out: Measurement = {}
    for activation in ACTIVATIONS:
        out |= measured(activation, ARMS, seed, device, steps)
        for variant in ARMS:
            out[f"{activation}, {variant}: nu"] = shift_at_start(activation, variant, seed, device=device).nu
    return out


def shown(measurements: Sequence[Measurement], activation: str) -> Activation:
    """Intervals over seeds."""
    none, none_ics, bn, bn_ics = (f"{activation}, {variant}" for variant in ARMS)
    gained, shifted = logs(measurements, none, bn), logs(measurements, none, bn_ics)
    nus = zip(scalars(measurements, f"{bn_ics}: nu"), scalars(measurements, f"{none}: nu"), strict=True)
    return Activation(
        gained=t_interval(gained),
        shifted=t_interval(shifted),
        most=t_interval([b - HALF * a for a, b in zip(gained, shifted, strict=True)]),
        harm=ratio(measurements, none_ics, none),
        nu=t_interval([a / b for a, b in nus]),
    )


def verdict(found: Sequence[Activation]) -> Verdict:
    """By activation."""
    if any(each.gained.low <= 0 or each.harm.low <= 0 or each.nu.low <= 1 for each in found):
        return Verdict.INCONCLUSIVE
    if all(each.shifted.high <= 0 for each in found):
        return Verdict.SUPPORTED
    if all(each.shifted.low > 0 and each.most.low > 0 for each in found):
        return Verdict.REFUTED
    return Verdict.PARTLY if any(each.most.high < 0 for each in found) else Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """What is left of BN's gain once its activations are shifted."""
    found = {activation: shown(measurements, activation) for activation in ACTIVATIONS}
    told = [
        f"{activation}: {' / '.join(mean_steps(measurements, f'{activation}, {arm}') for arm in ARMS)} steps (none /"
        f" shifted / BN / BN shifted), a factor {times(each.gained)} by BN and {times(each.shifted)} by BN with"
        f" shifted activations, whose nu is {each.nu.mean:.1f} times that of the net without norm"
        for activation, each in found.items()
    ]
    intervals = {
        f"{activation}: {name}": interval
        for activation, each in found.items()
        for name, interval in each._asdict().items()
    }
    return Judgement(verdict(list(found.values())), f"{'; '.join(told)}.", intervals)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Steps of each arm."""
    return plot_steps(measurements, dict.fromkeys(ACTIVATIONS, ARMS))


CLAIM = Claim(
    name="ics_removal",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “A Wrinkle”, which doubts it",
    sentence=(
        "ICS Removal Hypothesis: BN improves optimization by centering and/or normalizing the previous layer’s"
        " activations."
    ),
    threshold=(
        f"Nets, lrs and steps as in ics_conditioning; {', '.join(ACTIVATIONS)}; a fixed shift N(0, 1) of each unit"
        f" behind its activation puts ICS back. SUPPORTED if at each BN with shifted activations trains no faster than"
        f" no norm; REFUTED if at each it is faster and keeps at least {HALF} of BN's gain in log steps (95 %"
        f" intervals); PARTLY if at some it keeps less than {HALF} for certain; INCONCLUSIVE else, or if BN does not"
        f" train faster than none, the shift does not slow the net without norm, or nu is not larger than there."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
