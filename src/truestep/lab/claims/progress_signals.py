r"""What uncertainty weighting, GradNorm and dynamic task prioritization follow, and what must be chosen for each.

**Signals.** Of two tasks among four, one signal of one task is raised by a tenth and all else held: the change of the
log of their weights' ratio over the log of 1.1 is the elasticity, and 0 where a rule does not look. Uncertainty
weighting is said to follow the noise that stays; it sees the loss. Whether that is the noise is told by two fits, of
different size and noise, at their start and at their end. **Settings.** On the toy of GradNorm's paper
(`truestep.lab.toy`) each method is also run with another value of a setting that the source's table does not count: the
lr of the log variances; where GradNorm takes its norms, and its solver; how long a KPI is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._toy_methods import dtp, equal, gradnorm, uncertainty
from truestep.lab.toy import Build, make_toy, scales, train
from truestep.multitask import AbstractRule, DynamicTaskPriority, GradNorm, Readings, UncertaintyWeighting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RAISED: Final = 1.1
SIGNALS: Final[tuple[str, ...]] = ("losses", "norms", "ratios", "kpis")
RULES: Final[dict[str, Callable[[], AbstractRule]]] = {
    "UW": lambda: UncertaintyWeighting(solve="direct"),  # s at its optimum
    "GradNorm": lambda: GradNorm(alpha=1.5),
    "DTP": lambda: DynamicTaskPriority(gamma=1.0),
}
NAMED: Final = {"UW": "losses", "GradNorm": "ratios", "DTP": "kpis"}  # the source's, but for UW, which has its own test
COLORS: Final = {"UW": BLUE, "GradNorm": ORANGE, "DTP": GREEN}

INPUTS: Final = 10  # of the two fits
SIZES: Final = (10.0, 1.0)  # norm of their true coefficients
NOISES: Final = (1.0, 0.1)  # variances
FIT: Final = 300  # steps of gradient descent on fresh batches of 100, lr .05

TASKS: Final = 10
STEPS: Final = 200
LR: Final = 4e-3  # of Adam
METHODS: Final[dict[str, Build]] = {
    "equal": equal,
    "UW": uncertainty(1e-3),
    "UW_fast": uncertainty(0.1),
    "GradNorm": gradnorm(),
    "GradNorm_features": gradnorm(at_weight=False),
    "GradNorm_paper": gradnorm(solve="gradient"),
    "DTP": dtp(),
    "DTP_forgetful": dtp(smoothing=0.0),
    "DTP_unit": dtp(unit="loss"),
}
UNCOUNTED: Final = ("UW_fast", "GradNorm_features", "GradNorm_paper", "DTP_forgetful")  # against the name before "_"

NOT: Final = 0.05  # largest elasticity that counts as none
NEAR: Final = 0.1  # largest |log| of the weights' ratio over the noises' that counts as following the noise
MATTERS: Final = 1.05  # factor in mean L(t)/L(0) from which a setting is one that must be chosen


def log_weights(build: Callable[[], AbstractRule], signals: dict[str, Tensor]) -> float:
    """Log of the first task's weight over the second's, at an update that sees these signals."""
    rule = build()
    rule.start(tuple("abcd"))
    everyone = torch.ones(4, dtype=torch.bool)
    weights = rule.weigh(Readings(**signals, active=everyone, weights=everyone.double()))
    return (weights[0] / weights[1]).log().item()


def elasticities(build: Callable[[], AbstractRule], generator: torch.Generator) -> dict[str, float]:
    """How the ratio of two weights follows each signal of the first task, all else held, at drawn values."""
    drawn = torch.randn(3, 4, dtype=torch.float64, generator=generator).exp()
    kpis = 0.2 + 0.6 * torch.rand(4, dtype=torch.float64, generator=generator)
    signals: dict[str, Tensor] = dict(zip(SIGNALS, (*drawn, kpis), strict=True))
    raised = torch.tensor([RAISED, 1.0, 1.0, 1.0], dtype=torch.float64)
    before = log_weights(build, signals)
    return {
        name: (log_weights(build, signals | {name: value * raised}) - before) / log(RAISED)
        for name, value in signals.items()
    }


def noise_seen(generator: torch.Generator, steps: int) -> tuple[float, float]:
    """Log of UW's ratio of weights over the inverse ratio of the noises, at the first and the last step of two fits."""
    true = torch.randn(2, INPUTS, dtype=torch.float64, generator=generator)
    true = true / true.norm(dim=1, keepdim=True) * torch.tensor(SIZES, dtype=torch.float64)[:, None]
    noise = torch.tensor(NOISES, dtype=torch.float64)
    fitted = torch.zeros_like(true)
    rule = UncertaintyWeighting(solve="direct")
    rule.start(("large", "small"))
    ones, found = torch.ones(2, dtype=torch.float64), list[float]()
    for _ in range(steps):
        x = torch.randn(100, INPUTS, dtype=torch.float64, generator=generator)
        e = torch.randn(100, 2, dtype=torch.float64, generator=generator) * noise.sqrt()
        off = x @ (fitted - true).T - e  # [100, 2]
        weights = rule.weigh(Readings(off.square().mean(0), ones, ones, ones.bool(), ones))
        found.append((weights[0] / weights[1] * noise[0] / noise[1]).log().item())
        fitted = fitted - 0.05 * 2 * off.T @ x / len(x)
    return found[0], found[-1]


def run(seed: int, device: str, *, steps: int = STEPS, fit: int = FIT) -> Measurement:  # noqa: ARG001 (CPU's)
    """Elasticities, the noise seen, and mean progress on the toy with each setting."""
    generator = torch.Generator().manual_seed(seed)
    out: Measurement = {}
    for name, build in RULES.items():
        out |= {f"{name}_{signal}": e for signal, e in elasticities(build, generator).items()}
    out["noise_first"], out["noise_last"] = noise_seen(generator, fit)
    toy = make_toy(scales(TASKS), seed)
    for name, build in METHODS.items():
        course = train(toy, build, lr=LR, steps=steps, seed=seed, kpis=name.startswith("DTP"))
        out[f"{name}_mean"] = course.mean
    return out


def effects(measurements: Sequence[Measurement]) -> dict[str, Interval]:
    """Log of the mean progress with another setting over that with the first."""
    out: dict[str, Interval] = {}
    for name in UNCOUNTED:
        its, first = (scalars(measurements, f"{n}_mean") for n in (name, name.partition("_")[0]))
        out[f"{name}_log_effect"] = t_interval([log(i / f) for i, f in zip(its, first, strict=True)])
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Each follows its own signal; then whether it is the only one, and the settings all that are to be chosen."""
    effect = effects(measurements)
    interval = {name: t_interval(scalars(measurements, name)) for name in measurements[0]}
    named = [interval[f"{rule}_{signal}"] for rule, signal in NAMED.items()]
    others = [interval[f"{rule}_{s}"] for rule in RULES for s in SIGNALS if s != NAMED[rule]]
    noise = interval["noise_last"]
    if any(_within(i, NOT) for i in named) or _beyond(noise, NEAR):
        verdict = Verdict.REFUTED
    elif not all(_beyond(i, NOT) for i in named) or not _within(noise, NEAR):
        verdict = Verdict.INCONCLUSIVE
    elif all(_within(i, NOT) for i in others) and all(_within(i, log(MATTERS)) for i in effect.values()):
        verdict = Verdict.SUPPORTED
    else:
        more = any(_beyond(i, NOT) for i in others) or any(_beyond(i, log(MATTERS)) for i in effect.values())
        verdict = Verdict.PARTLY if more else Verdict.INCONCLUSIVE
    return Judgement(verdict, reason(interval, effect), interval | effect)


def _within(interval: Interval, bound: float) -> bool:
    """Whether the interval lies between -bound and bound."""
    return -bound <= interval.low and interval.high <= bound


def _beyond(interval: Interval, bound: float) -> bool:
    """Whether the interval lies outside of -bound to bound, on one side."""
    return interval.low > bound or interval.high < -bound


def reason(interval: dict[str, Interval], effect: dict[str, Interval]) -> str:
    """The sentence with the numbers."""
    seen = "; ".join(
        f"{rule}: " + ", ".join(f"{interval[f'{rule}_{signal}'].mean + 0.0:.2g}" for signal in SIGNALS)
        for rule in RULES
    )
    mean = {name: f"{interval[f'{name}_mean'].mean:.3f}" for name in METHODS}
    factor = {name.removesuffix("_log_effect"): f"{exp(i.mean):.2f}" for name, i in effect.items()}
    return (
        f"Elasticity of the weights to a task's loss, gradient norm, loss ratio, KPI: {seen}. UW's weights are off the"
        f" inverse noise variances by the factor {exp(abs(interval['noise_first'].mean)):.3g} at the start of two fits,"
        f" {exp(abs(interval['noise_last'].mean)):.2f} at their end: it sees the loss. Mean L(t)/L(0) on the toy, T ="
        f" {TASKS}: equal weights {mean['equal']}, UW {mean['UW']}, GradNorm {mean['GradNorm']}, DTP {mean['DTP']} (of"
        f" each loss over itself {mean['DTP_unit']}). Settings not counted change it by the factor: UW's lr of s .1 for"
        f" .001 {factor['UW_fast']}; GradNorm's norms at the features {factor['GradNorm_features']}, the paper's"
        f" solver {factor['GradNorm_paper']}; DTP without memory {factor['DTP_forgetful']}."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Elasticities by rule and signal; mean progress by method and setting."""
    figure, (left, right) = panels(2)
    for offset, rule in zip((-0.2, 0.0, 0.2), RULES, strict=True):
        for i, signal in enumerate(SIGNALS):
            found = scalars(measurements, f"{rule}_{signal}")
            places = [i + offset] * len(found)
            left.plot(places, found, "o", color=COLORS[rule], ms=4, alpha=0.6, label=None if i else rule)
    left.axhline(0, color=GREY, lw=0.8, ls=":")
    left.set_xticks(range(len(SIGNALS)), ["loss", "gradient norm", "L(t)/L(0)", "KPI"])
    left.set(ylabel="elasticity of the weight")
    left.legend()
    for i, name in enumerate(METHODS):
        found = scalars(measurements, f"{name}_mean")
        right.plot(found, [-i] * len(found), "o", ms=4, alpha=0.6, color=COLORS.get(name.partition("_")[0], GREY))
    right.set_yticks([-i for i in range(len(METHODS))], [name.replace("_", ", ") for name in METHODS])
    right.set(xlabel=f"mean test L(t)/L(0), toy, T = {TASKS}")
    return figure


CLAIM = Claim(
    name="progress_signals",
    source="003: notes on GradNorm, table of methods (Methods | Learning Progress Signal | hyperparameters)",
    sentence=(
        "Uncertainty Weighting | Homoscedastic Uncertainty | No hyperparameters; GradNorm | Training loss ratio | 1"
        " exponential weighting factor; Dynamic Task Prioritization | KPI | 1 focal loss scaling factor"
    ),
    threshold=(
        f"A rule follows a signal if the 95 % interval of the elasticity of its weights to it lies outside ±{NOT}; UW"
        f" (by the loss) follows the noise if its weights at the end of two fits are the inverse noise variances to"
        f" within {NEAR} in the log. SUPPORTED if each follows its named signal and no other, and no setting that the"
        f" table does not count changes the toy's mean L(t)/L(0) by a factor {MATTERS}; PARTLY if each follows its"
        f" named signal, but one follows another too or such a setting matters; REFUTED if one does not follow its"
        f" named signal; INCONCLUSIVE if an interval crosses its bound."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
