r"""Nets of different starts become the same distribution over predictions within a few 1 / (lr · decay) steps.

A start, with its own scale, lr and decay for a while, is trained by many copies on batches of their own; from then on
all have the same lr and decay, as in the source's Figure 4. For a test image the copies of one start give a
distribution of predicted labels. Two starts are compared by the :math:`\ell_1` distance :math:`\sum_k |p_k - q_k|`,
averaged over the images. With finitely many copies that is never 0, so its floor is measured by dealing the copies out
to the starts anew, at random. The excess over the floor is what must vanish. It is looked at in time scales, for two lr
· decay: if mixing takes :math:`O(1 / \lambda_e)` steps, then both fall alike.

The contrast is parameter space: at the end copies of one start must still be nearer to one another than to the others'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import CLASSES, Digits, digits
from truestep.lab._ensemble import (
    Ensemble,
    column,
    directions,
    draw_batches,
    draw_ensemble,
    held_out_logits,
    repeated,
    sgd_step,
)
from truestep.lab._figure import GREY, PALETTE, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (32, 32)
BATCH: Final = 32
COPIES: Final = 24  # of each start
STARTS: Final = ((1.0, 0.1, 5e-3), (4.0, 1.0, 1e-3), (0.5, 0.03, 5e-2))  # scale of the weights, lr, decay before
BEFORE: Final = 200  # steps, that each start is trained by its own lr and decay
LR: Final = 0.5  # of all, from then on
DECAYS: Final = {"slow": 0.01, "fast": 0.04}  # 200 and 50 steps a time scale
TIMES: Final = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)  # time scales at which we look
EARLY: Final = 2.0  # ... half of the excess must be gone
LATE: Final = (4.0, 6.0)  # ... all of it, in the mean of these
DEALS: Final = 20  # random ones, for the floor

GONE: Final = 0.15  # share of the excess at time 0 that counts as none
CONTRAST: Final = 0.1  # by how much starts must be farther apart than copies in parameter space, as a share


def frequencies(labels: Int[Tensor, "starts copies images"]) -> Float[Tensor, "starts images classes"]:
    """How often each label is predicted, over the copies."""
    return one_hot(labels, CLASSES).double().mean(1)


def l1_between(labels: Tensor) -> float:
    """Mean of sum_k |p_k - q_k| over images and pairs of starts.

    Example:
        >>> l1_between(torch.tensor([[[3], [3]], [[3], [4]]]))
        1.0
    """
    p = frequencies(labels)
    pairs = [(i, j) for i in range(len(p)) for j in range(i)]
    return torch.stack([(p[i] - p[j]).abs().sum(-1).mean() for i, j in pairs]).mean().item()


def floor(labels: Tensor, generator: torch.Generator) -> float:
    """The same distance after dealing the copies out to the starts at random, the mean of several deals."""
    flat = labels.flatten(0, 1)
    deals = [flat[torch.randperm(len(flat), generator=generator)].view(labels.shape) for _ in range(DEALS)]
    return sum(map(l1_between, deals)) / DEALS


def disagreement(labels: Tensor) -> tuple[float, float]:
    """How often two copies disagree on an image: of different starts, and two of the same start.

    Example:
        >>> disagreement(torch.tensor([[[3], [3]], [[3], [4]]]))
        (0.5, 0.5)
    """
    p, copies = frequencies(labels), labels.shape[1]
    pairs = [(i, j) for i in range(len(p)) for j in range(i)]
    between = torch.stack([1 - (p[i] * p[j]).sum(-1).mean() for i, j in pairs]).mean().item()
    within = (1 - (p * (copies * p - 1)).sum(-1) / (copies - 1)).mean().item()
    return between, within


def apart(nets: Ensemble, starts: int) -> float:
    """Distance between directions of nets of different starts over that of two of the same, less 1."""
    d = directions(nets)
    squared = (2 - 2 * (d @ d.T)).clamp_min(0.0)  # [nets, nets]
    start = torch.arange(len(d), device=d.device) // (len(d) // starts)
    same = start[:, None] == start
    twins = same & ~torch.eye(len(d), dtype=torch.bool, device=d.device)
    return sqrt(squared[~same].mean().item() / squared[twins].mean().item()) - 1


def prepare(data: Digits, copies: int, generator: torch.Generator, steps: int) -> Ensemble:
    """The starts, each in `copies`, trained for a while by lrs and decays of their own; one output layer for all."""
    first = draw_ensemble(len(STARTS), WIDTHS, generator, device=str(data.train_x.device))
    first.head.copy_(first.head[:1].expand_as(first.head))  # the loss is one function of the weights
    scales = column([scale for scale, _, _ in STARTS], first)
    with torch.no_grad():
        for w in first.hidden:
            w.mul_(scales)
    nets = repeated(first, copies)
    lr, decay = (column([start[i] for start in STARTS for _ in range(copies)], nets) for i in (1, 2))
    for _ in range(steps):
        sgd_step(nets, *draw_batches(data, len(nets), BATCH, generator), lr, decay)
    return nets


def follow(nets: Ensemble, data: Digits, decay: float, generator: torch.Generator, factor: float) -> Iterator[Ensemble]:
    """Train all alike; yields the nets at each of `TIMES`."""
    done, scale = 0, factor / (LR * decay)  # steps of a time scale
    for time in TIMES:
        for _ in range(round(time * scale) - done):
            sgd_step(nets, *draw_batches(data, len(nets), BATCH, generator), column(LR, nets), column(decay, nets))
        done = round(time * scale)
        yield nets


def run(seed: int, device: str, *, copies: int = COPIES, factor: float = 1.0) -> Measurement:
    """For both decays, at each time: l1, its floor, disagreement between and within, error; parameters at the end."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device)
    start = prepare(data, copies, generator, round(factor * BEFORE))
    names = ("l1", "floor", "between", "within", "error")
    out: Measurement = {}
    for arm, decay in DECAYS.items():
        rows: list[list[float]] = []
        nets = repeated(start, 1)
        for _ in follow(nets, data, decay, generator, factor):
            labels = held_out_logits(nets, data).argmax(-1)  # [nets, images]
            dealt = labels.view(len(STARTS), copies, -1)
            error = (labels != data.test_y).double().mean().item()
            rows.append([l1_between(dealt), floor(dealt, generator), *disagreement(dealt), error])
        out |= {f"{arm}_{name}": [row[i] for row in rows] for i, name in enumerate(names)}
        out[f"{arm}_apart"] = apart(nets, len(STARTS))
    return out


def excess(measurement: Measurement, arm: str) -> list[float]:
    """The l1 distance less its floor, over that at time 0, at each time."""
    (l1,), (under,) = curves([measurement], f"{arm}_l1"), curves([measurement], f"{arm}_floor")
    left = [a - b for a, b in zip(l1, under, strict=True)]
    return [value / left[0] for value in left]


def at(values: Sequence[float], *times: float) -> float:
    """The mean of a curve's values at these of `TIMES`."""
    return sum(values[TIMES.index(time)] for time in times) / len(times)


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Shares of the excess that are left early and late, and the contrast in parameter space."""
    left = {arm: [excess(m, arm) for m in measurements] for arm in DECAYS}
    early = {arm: t_interval([at(curve, EARLY) for curve in left[arm]]) for arm in DECAYS}
    late = {arm: t_interval([at(curve, *LATE) for curve in left[arm]]) for arm in DECAYS}
    contrast = t_interval(scalars(measurements, "slow_apart"))
    if contrast.low < CONTRAST:
        verdict = Verdict.INCONCLUSIVE
    elif all(found.high < GONE for found in late.values()) and all(found.high < 0.5 for found in early.values()):
        verdict = Verdict.SUPPORTED
    elif any(found.low > 0.5 for found in late.values()):
        verdict = Verdict.REFUTED
    elif any(found.low > GONE for found in late.values()) or any(found.low > 0.5 for found in early.values()):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    intervals = {f"{arm}_early": early[arm] for arm in DECAYS} | {f"{arm}_late": late[arm] for arm in DECAYS}
    intervals["slow_apart"] = contrast
    return Judgement(verdict, told(measurements, intervals), intervals)


def told(measurements: Sequence[Measurement], interval: dict[str, Interval]) -> str:
    """The reason, with the numbers in it."""
    shown = [f"{arm}_{name}" for arm in DECAYS for name in ("l1", "floor")]
    mean = {name: [t_interval(v).mean for v in zip(*curves(measurements, name), strict=True)] for name in shown}
    arms = "; ".join(
        f"{arm}, {1 / (LR * decay):.0f} steps a time scale: l1 {mean[f'{arm}_l1'][0]:.3f} over a floor of"
        f" {mean[f'{arm}_floor'][0]:.3f} at first, {mean[f'{arm}_l1'][-1]:.3f} over {mean[f'{arm}_floor'][-1]:.3f}"
        f" after {TIMES[-1]:g} time scales; of the excess {100 * interval[f'{arm}_early'].mean:.0f} % are left after"
        f" {EARLY:g}, {100 * interval[f'{arm}_late'].mean:.0f} % after {LATE[0]:g} to {LATE[1]:g}"
        for arm, decay in DECAYS.items()
    )
    return (
        f"{len(STARTS)} starts, {COPIES} copies of each. {arms}. In parameter space nets of different starts are still"
        f" {100 * interval['slow_apart'].mean:.0f} % farther apart than copies."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Left l1 and its floor, right the excess as a share; means against the time in time scales."""
    figure, (left, right) = panels(2)
    for color, arm in zip(PALETTE, DECAYS, strict=False):
        for name, dash in (("l1", "-"), ("floor", ":")):
            found = [t_interval(v).mean for v in zip(*curves(measurements, f"{arm}_{name}"), strict=True)]
            left.plot(TIMES, found, dash, marker=".", color=color, label=f"{arm}: {name}")
        for i, m in enumerate(measurements):
            right.plot(TIMES, excess(m, arm), color=color, lw=0.8, alpha=0.6, label=arm if i == 0 else None)
    right.axhline(0, color=GREY, lw=0.8, ls=":")
    right.axhline(GONE, color=GREY, lw=0.8, ls="--")
    left.set(xlabel="steps · lr · decay", ylabel="ℓ₁ between starts", ylim=(0, None))
    right.set(xlabel="steps · lr · decay", ylabel="excess over the floor, share of the first")
    left.legend()
    right.legend()
    return figure


CLAIM = Claim(
    name="mixing_in_function_space",
    source="004: Li and Arora, blog post on normalized nets and the intrinsic LR (2020), “So what’s really going on?”",
    sentence=(
        "In normalized nets SGD does indeed lead to rapid mixing, but in function space (i.e., input-output behavior of"
        " the net). Mixing happens after O(1/λ_e) iterations"
    ),
    threshold=(
        f"A seed is one replicate: {len(STARTS)} starts of {COPIES} copies each. The l1 distance between starts less"
        f" its permutation floor, as a share of that at the first; time in 1/(lr · decay) steps. SUPPORTED if for"
        f" both lr · decay the 95 % interval lies below .5 after {EARLY:g} and below {GONE:g} in the mean of"
        f" {LATE[0]:g} and {LATE[1]:g}; REFUTED if late it lies above .5 for one; PARTLY if it lies above one of the"
        f" other bounds; INCONCLUSIVE if it crosses one, or if in parameter space starts are not at least"
        f" {100 * CONTRAST:.0f} % farther apart than copies at the end."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
