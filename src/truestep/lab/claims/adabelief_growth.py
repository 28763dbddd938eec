r"""AdaBelief against Adam where the gradient hardly changes: how much faster depends on how long.

Under a gradient that never changes Adam's step is lr throughout. AdaBelief divides by the gradient's distance from
its average, which starts at 0: after some steps nothing but the fading memory of the start, and the step grows as
:math:`c(t) = \bigl[\frac{1-\beta_2}{1-\beta_2^t} \sum_i \beta_2^{t-i} \beta_1^{2i}\bigr]^{-1/2}`. So it is at ten times
Adam's only while it passes by. A little noise ends the growth, at :math:`c(s)` of `adabelief_speed`. The video's
functions have no noise, and stretches along which the gradient changes slowly. What is judged is the first of the
source's two readings, "just Adam with 10x learning-rate".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.optim import Adam

from truestep.compare import AdaBelief
from truestep.compare._belief import adabelief_growth, adabelief_speed
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import GREY, ORANGE, PALETTE, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS: Final = 1000
COPIES: Final = 64  # coordinates of each noise
NOISES: Final = (0.0, 0.02, 0.1, 1.0)  # standard deviation, in units of the gradient
TEN: Final = (8.0, 12.5)  # what counts as ten times
MOSTLY: Final = 0.5  # share of the steps
FORMULA: Final = 1e-3  # relative error of the closed form that counts as none, without noise
LOOKS: Final = (1, 10, 100, 300, 1000)
DRAWN: Final = tuple(sorted({round(10 ** (k / 30)) for k in range(91)}))  # steps of the figure's curves, 1 to 1000


def growth(noise: float, generator: torch.Generator, count: int, device: str) -> list[float]:
    """AdaBelief's step over Adam's at each step, as a root mean square over coordinates of gradients 1e-3 to 1e3."""
    scale = torch.logspace(-3, 3, COPIES, dtype=torch.float64)
    weights = [nn.Parameter(torch.zeros(COPIES, dtype=torch.float64, device=device)) for _ in range(2)]
    rules = [AdaBelief(weights[:1], lr=1.0, eps=1e-30), partial(Adam, lr=1.0, eps=1e-30)(weights[1:])]
    out: list[float] = []
    for _ in range(count):
        drawn = torch.randn(COPIES, generator=generator, dtype=torch.float64)
        gradient = (scale * (1 + noise * drawn)).to(device)
        for weight, rule in zip(weights, rules, strict=True):
            weight.grad = gradient
            with torch.no_grad():
                weight.zero_()
            rule.step()
        belief, adam = (weight.detach() for weight in weights)
        out.append((belief / adam).square().mean().sqrt().item())
    return out


def run(seed: int, device: str, *, count: int = STEPS) -> Measurement:
    """For each noise the ratio by step and the share of steps at which it is ten; the closed form's error."""
    generator = torch.Generator().manual_seed(seed)
    out: Measurement = {}
    for noise in NOISES:
        ratio = growth(noise, generator, count, device)
        out[f"{noise:g}_curve"] = [ratio[t - 1] for t in DRAWN if t <= count]
        out[f"{noise:g}_ten"] = sum(TEN[0] <= c <= TEN[1] for c in ratio) / count
        out |= {f"{noise:g}_at_{t}": ratio[min(t, count) - 1] for t in LOOKS}
    exact = adabelief_growth(torch.arange(1, count + 1)).tolist()
    still = growth(0.0, generator, count, device)
    out["error"] = max(abs(c / e - 1) for c, e in zip(still, exact, strict=True))
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Whether ten is where the ratio stays, or what it passes."""
    ten = {noise: t_interval(scalars(measurements, f"{noise:g}_ten")) for noise in NOISES}
    at = {(noise, t): t_interval(scalars(measurements, f"{noise:g}_at_{t}")) for noise in NOISES for t in LOOKS}
    error = max(scalars(measurements, "error"))
    if error > FORMULA:
        verdict = Verdict.INCONCLUSIVE
    elif all(share.low > MOSTLY for share in ten.values()):
        verdict = Verdict.SUPPORTED
    elif all(share.high == 0 for share in ten.values()):
        verdict = Verdict.REFUTED
    elif any(share.high < MOSTLY for share in ten.values()):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    intervals = {f"{noise:g}_ten": ten[noise] for noise in NOISES}
    intervals |= {f"{noise:g}_at_{t}": each for (noise, t), each in at.items()}
    return Judgement(verdict, _told(ten, at, error), intervals, {"error": error})


def _told(ten: dict[float, Interval], at: dict[tuple[float, int], Interval], error: float) -> str:
    still = ", ".join(f"{at[0.0, t].mean:.3g} at step {t}" for t in LOOKS)
    noisy = "; ".join(
        f"at noise {noise:g} it is {at[noise, LOOKS[-1]].mean:.3g} at step {LOOKS[-1]},"
        f" {adabelief_speed(1 / noise).item():.3g} in the end, and about ten at {100 * ten[noise].mean:.0f} % of steps"
        for noise in NOISES[1:]
    )
    return (
        f"Under a gradient that never changes AdaBelief's step over Adam's is {still} (the closed form, to {error:.0e}"
        f" of it): from {TEN[0]:g} to {TEN[1]:g} at {100 * ten[0.0].mean:.0f} % of {STEPS} steps, on its way up. Noise,"
        f" in units of the gradient, ends the growth: {noisy}. So “10x” is right for some hundred steps of a gradient"
        f" that keeps still, or where it is some nine times its noise; not under noise of its own size."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """The ratio by step, for each noise."""
    figure, (axis,) = panels()
    for color, noise in zip(PALETTE, NOISES, strict=False):
        for i, curve in enumerate(curves(measurements, f"{noise:g}_curve")):
            label = None if i else f"noise {noise:g}"
            axis.plot(DRAWN[: len(curve)], curve, color=color, lw=0.7, label=label)
    steps = torch.tensor(DRAWN[: len(curves(measurements, "0_curve")[0])])
    axis.plot(steps, adabelief_growth(steps), color="black", ls=":", lw=1.5, label="closed form, no noise")
    axis.axhspan(*TEN, color=ORANGE, alpha=0.15, lw=0, label="“10x learning-rate”")
    axis.set(xscale="log", yscale="log", xlabel="step", ylabel="AdaBelief's step / Adam's", title="constant gradient")
    axis.grid(color=GREY, alpha=0.2, lw=0.5)
    axis.legend(loc="upper left")
    return figure


CLAIM = Claim(
    name="adabelief_growth",
    source="000: The case for unit-normalized loss, section “But why?”",
    sentence=(
        "So we can't tell if AdaBelief is just Adam with 10x learning-rate or if it's actually being intelligent about"
        " it's speed."
    ),
    threshold=(
        f"Constant gradients with noise of 0 to {NOISES[-1]:g} times their size, {STEPS} steps. SUPPORTED (“just 10x”)"
        f" if AdaBelief's step is {TEN[0]:g} to {TEN[1]:g} times Adam's at more than {MOSTLY} of the steps, at every"
        f" noise; PARTLY if at some noise it passes there for less; REFUTED if it never does; INCONCLUSIVE otherwise,"
        f" or if the closed form is off by more than {FORMULA:g} without noise."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
