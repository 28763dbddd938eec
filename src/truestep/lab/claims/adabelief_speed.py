r"""AdaBelief's step against Adam's where the gradient is a constant and noise: the same step, times a number.

Both step along the same average m. Once their denominators have settled, Adam's is the root of
:math:`\sigma^2 (1 + s^2)` and AdaBelief's that of :math:`2 \beta_1^2 \sigma^2 / (1 + \beta_1)`, for a gradient with
standard deviation :math:`\sigma` and a mean of s times that. So in each coordinate AdaBelief is Adam at
:math:`c(s) = \sqrt{(1 + s^2)(1 + \beta_1) / (2 \beta_1^2)}` times the lr: nothing but sped up, by a number that grows
with s. Here the gradients are given, not computed: normal ones, independent from step to step. The contrast is
RMSprop, whose step is no multiple of Adam's: it has no average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, RMSprop

from truestep.compare import AdaBelief
from truestep.compare._belief import adabelief_speed
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SNRS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
COPIES: Final = 64  # coordinates of each ratio
SETTLE: Final = 5000  # steps before it is measured, some 1 / (1 - beta2) times five
STEPS: Final = 2000  # and while it is
FORMULA: Final = 0.02  # relative error of the closed form that counts as none
SAME_STEP: Final = 0.1  # share of a step that is no multiple of Adam's and still counts as none
ONE_NUMBER: Final = 1.1  # largest over smallest factor among the ratios that counts as one number
VERY_OTHER: Final = 0.5  # the least share that the contrast must have

ARMS: Final[dict[str, Callable[[Iterator[nn.Parameter]], Optimizer]]] = {
    "belief": partial(AdaBelief, lr=1.0),
    "rmsprop": partial(RMSprop, lr=1.0, alpha=0.999),
}


def steps(build: Callable[..., Optimizer], gradients: Sequence[Tensor], skip: int) -> Float64[Tensor, "steps weights"]:
    """The displacements that given gradients [weights] lead to, without the first ones."""
    weight = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = build([weight])
    out: list[Tensor] = []
    for gradient in gradients:
        weight.grad = gradient
        with torch.no_grad():
            weight.zero_()
        optimizer.step()
        out.append(weight.detach().clone())
    return torch.stack(out[skip:])


def factor(u: Tensor, adam: Tensor) -> tuple[Tensor, Tensor]:
    """The number that Adam's steps are nearest to others by, for each weight, and the share that it leaves.

    Example:
        >>> adam = torch.tensor([[1.0, 1.0], [-2.0, 1.0]])
        >>> factor(torch.tensor([[3.0, 1.0], [-6.0, -1.0]]), adam)
        (tensor([3., 0.]), tensor([0., 1.]))
    """
    c = (u * adam).sum(0) / (adam * adam).sum(0)
    return c, (u - c * adam).norm(dim=0) / u.norm(dim=0)


def run(seed: int, device: str, *, settle: int = SETTLE, count: int = STEPS) -> Measurement:
    """For each signal-to-noise ratio: the factor, its error against the closed form, and what it leaves."""
    generator = torch.Generator().manual_seed(seed)
    snrs = torch.tensor(SNRS, dtype=torch.float64).repeat_interleave(COPIES)
    scale = torch.logspace(-3, 3, COPIES, dtype=torch.float64).repeat(len(SNRS))  # the loss's scale must not matter
    noise = torch.randn(settle + count, len(snrs), generator=generator, dtype=torch.float64)
    gradients = ((snrs + noise) * scale).to(device)  # [steps, weights]
    rows = list(gradients.unbind())
    adam = steps(partial(Adam, lr=1.0, eps=1e-30), rows, settle)
    out: Measurement = {}
    for arm, build in ARMS.items():
        c, left = (x.view(len(SNRS), COPIES).mean(1).tolist() for x in factor(steps(build, rows, settle), adam))
        for i, snr in enumerate(SNRS):
            out |= {f"{arm}_{snr:g}_factor": c[i], f"{arm}_{snr:g}_left": left[i]}
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Whether a step is a multiple of Adam's, whether the formula has the number, whether it is one number."""
    c = {snr: t_interval(scalars(measurements, f"belief_{snr:g}_factor")) for snr in SNRS}
    left = {snr: t_interval(scalars(measurements, f"belief_{snr:g}_left")) for snr in SNRS}
    contrast = {snr: t_interval(scalars(measurements, f"rmsprop_{snr:g}_left")) for snr in SNRS}
    predicted = {snr: adabelief_speed(snr).item() for snr in SNRS}
    errors = {snr: max(abs(end / predicted[snr] - 1) for end in (c[snr].low, c[snr].high)) for snr in SNRS}
    same = all(interval.high <= SAME_STEP for interval in left.values())
    if contrast[0.0].low < VERY_OTHER:
        verdict = Verdict.INCONCLUSIVE
    elif any(interval.low > SAME_STEP for interval in left.values()):
        verdict = Verdict.REFUTED
    elif same and max(i.high for i in c.values()) <= ONE_NUMBER * min(i.low for i in c.values()):
        verdict = Verdict.SUPPORTED
    elif same and max(errors.values()) <= FORMULA:
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    intervals = {f"factor_{snr:g}": c[snr] for snr in SNRS} | {f"left_{snr:g}": left[snr] for snr in SNRS}
    intervals |= {f"rmsprop_left_{snr:g}": contrast[snr] for snr in SNRS}
    reason = _told(c, left, contrast, max(errors.values()))
    return Judgement(verdict, reason, intervals, {f"error_{snr:g}": errors[snr] for snr in SNRS})


def _told(c: dict[float, Interval], left: dict[float, Interval], contrast: dict[float, Interval], error: float) -> str:
    told = ", ".join(f"{c[snr].mean:.3g} at s = {snr:g}" for snr in SNRS)
    worst = max(interval.mean for interval in left.values())
    return (
        f"In each coordinate AdaBelief's step is Adam's times a number, but for {100 * worst:.2g} % of its length:"
        f" sped up and no more (RMSprop's but for {100 * contrast[SNRS[0]].mean:.0f} % at s = {SNRS[0]:g}; at"
        f" s = {SNRS[-1]:g}, where the gradient hardly changes, but for {100 * contrast[SNRS[-1]].mean:.0f} %)."
        f" But the number is another for each s, the gradient's mean over its noise: {told}. The closed form"
        f" √((1+s²)(1+β₁)/(2β₁²)) has it to {100 * error:.1f} %. Ten times the lr it is at s = 9.2 alone;"
        f" where the noise is no smaller than the mean, at most {c[1.0].mean:.2g} times."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """The factor against the signal-to-noise ratio, on the closed form; what is left besides."""
    figure, (left, right) = panels(2)
    grid = torch.linspace(0, SNRS[-1], 200, dtype=torch.float64)
    left.plot(grid, adabelief_speed(grid), color=GREY, lw=1, label="closed form")
    left.axhline(10.0, color=ORANGE, ls="--", lw=0.8, label="“10x learning-rate”")
    means = [t_interval(scalars(measurements, f"belief_{snr:g}_factor")).mean for snr in SNRS]
    left.plot(SNRS, means, "o", color=BLUE, ms=4, label="measured")
    left.set(xlabel="gradient's mean / its noise", ylabel="AdaBelief's step / Adam's", title="stationary gradients")
    left.legend()
    for arm, color, label in (("belief", BLUE, "AdaBelief"), ("rmsprop", ORANGE, "RMSprop")):
        shares = [t_interval(scalars(measurements, f"{arm}_{snr:g}_left")).mean for snr in SNRS]
        right.plot(SNRS, shares, "o-", color=color, ms=4, lw=1, label=label)
    right.axhline(SAME_STEP, color=GREY, ls="--", lw=0.8, label="threshold")
    right.set(yscale="log", xlabel="gradient's mean / its noise", ylabel="share that is no multiple of Adam's step")
    right.legend()
    return figure


CLAIM = Claim(
    name="adabelief_speed",
    source="000: The case for unit-normalized loss, section “But why?”",
    sentence="from the video AdaBelief looks like it's Adam just sped up.",
    threshold=(
        f"On gradients of {SNRS[0]:g} to {SNRS[-1]:g} times their noise. SUPPORTED if AdaBelief's steps are Adam's"
        f" times a number, but for {SAME_STEP} of their length, and the same number everywhere (largest over smallest"
        f" at most {ONE_NUMBER}); PARTLY if the number depends on the gradient, and the closed form has it to"
        f" {FORMULA:g}; REFUTED if somewhere more than {SAME_STEP} is no multiple; INCONCLUSIVE otherwise, or if less"
        f" than {VERY_OTHER} of RMSprop's steps is no multiple at s = 0."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
