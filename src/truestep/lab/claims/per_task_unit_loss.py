r"""Dividing each task's loss by itself may help where losses of different expected magnitudes are added up.

The source says so of losses within a batch; one loss a task is the other place where such losses meet. The sum of
:math:`L_i / L_i` has the gradient of :math:`\sum_i \log L_i`: a task's unit of loss cancels. On the toy of GradNorm's
paper (`truestep.lab.toy`) magnitudes differ by 1e4: losses from scales sigma of 1 to 100. Equal weights and the fixed
weights 1 / sigma², which know the scales, stand beside it. The contrast are tasks of one scale, where there is no
magnitude to take out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import TYPE_CHECKING, Final, NamedTuple

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._toy_methods import best, equal, oracle, unit
from truestep.lab.toy import Build, make_toy, scales

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Setting(NamedTuple):
    """Tasks by their scales, and how long they are trained."""

    title: str
    sigmas: Sequence[float]
    steps: int
    apart: bool  # whether the losses' magnitudes differ


LRS: Final = (4e-3, 8e-3)  # of Adam; each method at the one with the better mean progress
SETTINGS: Final = {
    "T2": Setting("T = 2, sigma 1 and 100", scales(2), 500, True),
    "T10": Setting("T = 10, sigma 1 to 100", scales(10), 300, True),
    "same": Setting("T = 2, sigma 1", (1.0, 1.0), 500, False),
}
METHODS: Final[dict[str, Build]] = {"equal": equal, "unit": unit, "oracle": oracle}
TOLD: Final = {"equal": "equal weights", "unit": "unit", "oracle": "1/σ²"}

GAIN: Final = 0.9  # mean L(t)/L(0) over that of equal weights, below which it helps
HARM: Final = 1.1  # and above which it harms


def run(seed: int, device: str, *, shorten: int = 1) -> Measurement:  # noqa: ARG001 (the toy is CPU's)
    """Mean progress of each method at its best lr in each setting, the steps divided by `shorten`."""
    out: Measurement = {}
    for key, setting in SETTINGS.items():
        toy = make_toy(setting.sigmas, seed)
        for name in METHODS if setting.apart else ("equal", "unit"):
            course = best(toy, METHODS[name], lrs=LRS, steps=setting.steps // shorten, seed=seed)
            out |= {f"{key}_{name}_mean": course.mean, f"{key}_{name}_last": course.last}
    return out


def gains(measurements: Sequence[Measurement]) -> dict[str, Interval]:
    """Logarithm of the unit loss's mean progress over that of equal weights."""
    return {
        key: t_interval([log(m_unit / m_equal) for m_unit, m_equal in zip(unit_means, equal_means, strict=True)])
        for key in SETTINGS
        for unit_means, equal_means in [[scalars(measurements, f"{key}_{name}_mean") for name in ("unit", "equal")]]
    }


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Helps wherever magnitudes differ and harms nowhere; helps in one; helps nowhere."""
    gain = gains(measurements)
    names = [name for name in measurements[0] if not isinstance(measurements[0][name], list)]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    apart = [gain[key] for key, setting in SETTINGS.items() if setting.apart]
    if all(i.high < log(GAIN) for i in apart) and gain["same"].high < log(HARM):
        verdict = Verdict.SUPPORTED
    elif any(i.high < log(GAIN) for i in apart):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.REFUTED if all(i.low > log(GAIN) for i in apart) else Verdict.INCONCLUSIVE
    logs = {f"{key}_log_gain": i for key, i in gain.items()}
    return Judgement(verdict, reason(interval, gain), logs | interval)


def reason(interval: dict[str, Interval], gain: dict[str, Interval]) -> str:
    """The sentence with the numbers."""
    told = "; ".join(
        f"{setting.title}: "
        + ", ".join(
            f"{TOLD[name]} {interval[f'{key}_{name}_mean'].mean:.3f}"
            for name in METHODS
            if f"{key}_{name}_mean" in interval
        )
        for key, setting in SETTINGS.items()
    )
    return (
        f"Mean test L(t)/L(0), each method at its best lr. {told}. Where all tasks have one scale it changes the mean"
        f" by the factor {exp(gain['same'].mean):.2f}."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Mean progress of each method and seed."""
    figure, axes = panels(len(SETTINGS))
    colors = {"equal": BLUE, "unit": ORANGE, "oracle": GREEN}
    for axis, (key, setting) in zip(axes, SETTINGS.items(), strict=True):
        names = [name for name in METHODS if f"{key}_{name}_mean" in measurements[0]]
        for i, name in enumerate(names):
            found = scalars(measurements, f"{key}_{name}_mean")
            axis.plot([i] * len(found), found, "o", color=colors[name], alpha=0.6)
        axis.axhline(1.0, color=GREY, lw=0.8, ls=":")
        axis.set_xticks(range(len(names)), [TOLD[name] for name in names])
        axis.set(title=setting.title, ylabel="mean test L(t)/L(0)", xlim=(-0.5, len(names) - 0.5))
    return figure


CLAIM = Claim(
    name="per_task_unit_loss",
    source="000: The case for unit-normalized loss, the note on batch accumulation",
    sentence=(
        "if you're aggregating within a batch with different expected loss magnitudes it may help to do"
        " (loss/loss.detach()).mean().backward() with reduction='none'"
    ),
    threshold=(
        f"Read of one loss a task: mean test L(t)/L(0) of GradNorm's toy under the sum of L/L, over that under equal"
        f" weights, each at its best lr of {LRS[0]:g} and {LRS[1]:g}. SUPPORTED if the 95 % interval of the log ratio"
        f" lies below log {GAIN} for T = 2 and for T = 10 with sigma 1 to 100, and below log {HARM} where all have one"
        f" scale; PARTLY if below log {GAIN} for one of the two; REFUTED if above log {GAIN} for both; INCONCLUSIVE"
        f" between."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
