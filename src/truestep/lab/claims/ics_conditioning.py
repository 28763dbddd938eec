"""Batch norm takes the outlier eigenvalues away and leaves the covariate shift: how much of its speed is that.

The knockout: in "BN direct" the statistics of the batch are constants to the backward pass. The forward pass, and with
it the shift of the activations, is that of BN; the outliers are back. What it costs in steps is what their removal was
worth, at the lr that suits each best. Under tanh, whose activations are centred anyway, it should cost nothing. The
other way round, standardising the inputs in the gradient alone changes conditioning and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Final, NamedTuple

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._covariate_shift import REACHED, STEPS
from truestep.lab._interval import Interval, t_interval
from truestep.lab._shift_at_start import shift_at_start
from truestep.lab._steps import logs, mean_steps, measured, plot_steps, ratio, times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNCENTRED: Final = ("relu", "logistic", "tanh + 1")
ARMS: Final = ("none", "standardizing", "BN", "BN direct")
CONTRAST: Final = ("BN", "BN direct")  # under tanh

HALF: Final = 0.5  # share of the outliers, and of BN's gain
NOTHING: Final = 1.25  # factor in steps that counts as nothing in the contrast


class Activation(NamedTuple):
    """What one activation shows; intervals of logs of ratios of steps."""

    gained: Interval  # none over BN
    lost: Interval  # BN direct over BN
    most: Interval  # log of lost less HALF x log of gained
    standardized: Interval  # none over standardizing
    removed: Interval  # ICS share of BN over that of none
    restored: Interval  # ... of BN direct over that of none

    @property
    def explained(self) -> bool:
        """Whether BN removes the outliers, their return costs something, and removing them alone helps."""
        shares = self.removed.high < HALF < self.restored.low
        return shares and self.lost.low > 0 and self.standardized.low > 0


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Steps of each arm, and the share of curvature along the mean of the hidden layers' inputs at the start."""
    out = measured("tanh", CONTRAST, seed, device, steps)
    for activation in UNCENTRED:
        out |= measured(activation, ARMS, seed, device, steps)
        for variant in ("none", "BN", "BN direct"):
            found = shift_at_start(activation, variant, seed, device=device)
            out |= {f"{activation}, {variant}: share": found.hidden, f"{activation}, {variant}: nu": found.nu}
    return out


def shown(measurements: Sequence[Measurement], activation: str) -> Activation:
    """Intervals over seeds."""
    none, standardizing, bn, direct = (f"{activation}, {variant}" for variant in ARMS)
    gained, lost = logs(measurements, none, bn), logs(measurements, direct, bn)
    share = {arm: scalars(measurements, f"{arm}: share") for arm in (none, bn, direct)}
    return Activation(
        gained=t_interval(gained),
        lost=t_interval(lost),
        most=t_interval([b - HALF * a for a, b in zip(gained, lost, strict=True)]),
        standardized=ratio(measurements, none, standardizing),
        removed=t_interval([a / b for a, b in zip(share[bn], share[none], strict=True)]),
        restored=t_interval([a / b for a, b in zip(share[direct], share[none], strict=True)]),
    )


def verdict(found: Sequence[Activation], contrast: Interval) -> Verdict:
    """By uncentred activation, and the log of the ratio of steps under tanh."""
    if contrast.high >= log(NOTHING) or any(each.gained.low <= 0 for each in found):
        return Verdict.INCONCLUSIVE
    if all(each.explained and each.most.low > 0 for each in found):
        return Verdict.SUPPORTED
    if any(each.explained for each in found):
        return Verdict.PARTLY
    nothing = all(each.lost.high < log(NOTHING) or each.removed.low > HALF for each in found)
    return Verdict.REFUTED if nothing else Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """What the outliers' return costs."""
    found = {activation: shown(measurements, activation) for activation in UNCENTRED}
    contrast = ratio(measurements, "tanh, BN direct", "tanh, BN")
    told = [
        f"{activation}: share of curvature along the mean"
        f" {' / '.join(_share(measurements, f'{activation}, {arm}') for arm in ('none', 'BN', 'BN direct'))} and steps"
        f" {' / '.join(mean_steps(measurements, f'{activation}, {arm}') for arm in ('none', 'BN', 'BN direct'))}"
        f" (none / BN / BN without its statistics path; standardising in the gradient alone:"
        f" {mean_steps(measurements, f'{activation}, standardizing')}), so BN gains a factor {times(each.gained)} and"
        f" the outliers' return costs {times(each.lost)}, {each.lost.mean / each.gained.mean:.0%} of BN's gain in log"
        " steps"
        for activation, each in found.items()
    ]
    reason = f"{'; '.join(told)}. Under tanh, centred by itself, the same knockout costs {times(contrast)}."
    intervals = {
        f"{activation}: {name}": interval
        for activation, each in found.items()
        for name, interval in each._asdict().items()
    }
    return Judgement(verdict(list(found.values()), contrast), reason, intervals | {"contrast": contrast})


def _share(measurements: Sequence[Measurement], arm: str) -> str:
    return f"{t_interval(scalars(measurements, f'{arm}: share')).mean:.2f}"


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Steps of each arm."""
    return plot_steps(measurements, dict.fromkeys(UNCENTRED, ARMS) | {"tanh": CONTRAST})


CLAIM = Claim(
    name="ics_conditioning",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “A Wrinkle”",
    sentence="“ICS Conditioning Hypothesis”: BN helps by removing the outlier eigenvalues",
    threshold=(
        f"Full-batch gradient descent on digits, 20-14-14-14-10; steps until the loss is {REACHED} at the best of 20"
        f" lrs; {', '.join(UNCENTRED)}. An activation is explained if BN brings the ICS share (of the GGN of the hidden"
        f" layers at the start) below {HALF} of that without norm, if with its statistics held constant to the backward"
        f" pass the share is above {HALF} of it again and training slower than under BN, and if standardising in the"
        f" gradient alone, without norm, trains faster than none (95 % intervals). SUPPORTED if all are, and the"
        f" knockout loses at least {HALF} of BN's gain in log steps at each; PARTLY if one is; REFUTED if at none the"
        f" outliers are removed, or their return costs a factor {NOTHING} in steps; INCONCLUSIVE else, if BN does not"
        f" train faster than none, or if the knockout under tanh costs as much as {NOTHING}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
