r"""Whether a small initial lr generalises as well as a large one if it is trained longer.

The source starts at a hundredth of the usual lr, trains ten times as long, and lowers the lr as the baseline does. On
all the digits any schedule does well, which tells nothing, so we take less data and wrong labels: 300 images, 100
images, and 300 images of which a tenth have a random label. Four arms each, decay the same, the lr divided by ten
twice: the baseline; a tenth of its lr for as long (the contrast: if it is as good as the baseline at once, longer
training proves nothing); a tenth of its lr for longer; and the baseline's lr for longer, to tell the lr's effect from
the length's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._digits import CLASSES, Digits, digits
from truestep.lab._ensemble import Ensemble, column, draw_ensemble, held_out_logits, repeated, sgd_step
from truestep.lab._figure import GREY, PALETTE, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (32, 32)
BATCH: Final = 32
NETS: Final = 4  # of each problem and arm
LR: Final = 1.0
SMALL: Final = 0.1  # times that
WEIGHT_DECAY: Final = 0.02  # 50 steps a time scale at the large lr, 500 at the small one
SHORT: Final = (300, 100, 50)  # steps at the first lr, at a tenth and at a hundredth of it
LONG: Final = (3000, 1000, 500)  # ten times as long, as the source has it

AS_GOOD: Final = 0.01  # of test accuracy, by which the small lr may fall short


class Data(NamedTuple):
    """How hard a problem is: training images, and the share of them that get a random label."""

    label: str
    images: int
    noise: float


PROBLEMS: Final = {
    "clean": Data("300 images", 300, 0.0),
    "few": Data("100 images", 100, 0.0),
    "noisy": Data("300 images, 10 % random labels", 300, 0.1),
}
ARMS: Final = {
    "large": "large lr",
    "same": "small lr, as long",
    "small": "small lr, longer",
    "large_long": "large lr, longer",
}


def draw_problems(seed: int, device: str) -> list[Digits]:
    """The training images of each problem, drawn by the seed; all digits' test images."""
    generator = torch.Generator().manual_seed(seed)
    whole = digits(device)
    found: list[Digits] = []
    for _, images, noise in PROBLEMS.values():
        chosen = torch.randperm(len(whole.train_y), generator=generator)[:images]
        random = torch.randint(CLASSES, (images,), generator=generator).to(device)
        wrong = (torch.rand(images, generator=generator) < noise).to(device)
        y = torch.where(wrong, random, whole.train_y[chosen])
        found.append(Digits(whole.train_x[chosen], y, whole.test_x, whole.test_y))
    return found


def train(
    nets: Ensemble, problems: Sequence[Digits], lrs: Sequence[float], phases: Sequence[int], generator: torch.Generator
) -> None:
    """Train the nets, those of the first problem first, at the lrs (one a net), divided by ten after each phase."""
    x, y = torch.cat([data.train_x for data in problems]), torch.cat([data.train_y for data in problems])
    sizes = torch.tensor([len(data.train_y) for data in problems])
    each = len(nets) // len(problems)
    size = sizes.repeat_interleave(each)[:, None]  # [nets, 1]
    first = (sizes.cumsum(0) - sizes).repeat_interleave(each)[:, None]
    decay = column(WEIGHT_DECAY, nets)
    for i, steps in enumerate(phases):
        lr = column([lr / 10**i for lr in lrs], nets)
        for _ in range(steps):
            index = (torch.rand(len(nets), BATCH, generator=generator) * size).long() + first
            sgd_step(nets, x[index], y[index], lr, decay)


def accuracies(nets: Ensemble, problems: Sequence[Digits]) -> list[list[float]]:
    """Test accuracy of each net, by problem."""
    each, found = len(nets) // len(problems), []
    for i, data in enumerate(problems):
        own = slice(i * each, (i + 1) * each)
        part = Ensemble([w.detach()[own] for w in nets.hidden], nets.head[own], nets.eps[own])
        right = held_out_logits(part, data).argmax(-1) == data.test_y  # [nets, images]
        found.append(right.double().mean(1).tolist())
    return found


def run(seed: int, device: str, *, short: Sequence[int] = SHORT, long: Sequence[int] = LONG) -> Measurement:
    """Mean test accuracy of each problem and arm, over the nets."""
    problems = draw_problems(seed, device)
    generator = torch.Generator().manual_seed(seed)
    start = draw_ensemble(NETS * len(problems), WIDTHS, generator, device=device)
    lrs = [LR, SMALL * LR] * len(start)
    out: Measurement = {}
    for arms, phases in ((("large", "same"), short), (("large_long", "small"), long)):
        nets = repeated(start, len(arms))  # large, small, large, small ...
        train(nets, problems, lrs, phases, generator)
        for name, found in zip(PROBLEMS, accuracies(nets, problems), strict=True):
            for i, arm in enumerate(arms):
                own = found[i :: len(arms)]
                out[f"{name}_{arm}"] = sum(own) / len(own)
    return out


def gaps(measurements: Sequence[Measurement], name: str) -> dict[str, Interval]:
    """Test accuracy of each arm less the baseline's, on one problem."""
    base = scalars(measurements, f"{name}_large")
    found = {arm: scalars(measurements, f"{name}_{arm}") for arm in ARMS if arm != "large"}
    return {arm: t_interval([a - b for a, b in zip(own, base, strict=True)]) for arm, own in found.items()}


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """On each problem, whether the longer small lr is as good, and whether the short one was worse."""
    gap = {name: gaps(measurements, name) for name in PROBLEMS}
    as_good = [name for name in PROBLEMS if gap[name]["small"].low > -AS_GOOD]
    telling = [name for name in as_good if gap[name]["same"].high < 0]
    worse = [name for name in PROBLEMS if gap[name]["small"].high < -AS_GOOD]
    if len(worse) == len(PROBLEMS):
        verdict = Verdict.REFUTED
    elif len(as_good) == len(PROBLEMS) and telling:
        verdict = Verdict.SUPPORTED
    else:
        verdict = Verdict.PARTLY if telling and worse else Verdict.INCONCLUSIVE
    told = "; ".join(
        f"{data.label}: {100 * t_interval(scalars(measurements, f'{name}_large')).mean:.1f} %, and"
        f" {100 * gap[name]['same'].mean:+.1f}, {100 * gap[name]['small'].mean:+.1f},"
        f" {100 * gap[name]['large_long'].mean:+.1f}"
        for name, data in PROBLEMS.items()
    )
    good = " and with ".join(PROBLEMS[name].label for name in telling)
    reason = (
        f"Test accuracy of the baseline, and the points gained by a tenth of its lr, by that for"
        f" {sum(LONG) / sum(SHORT):.1f} times as many steps, and by the large lr for as many. {told}."
    )
    if telling:
        reason += f" Longer training at the small lr makes good what it lost with {good}."
    return Judgement(verdict, reason, {f"{name}_{arm}": found for name in PROBLEMS for arm, found in gap[name].items()})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Test accuracy by arm, a dot per seed; a panel for each problem."""
    figure, axes = panels(len(PROBLEMS))
    for axis, (name, data) in zip(axes, PROBLEMS.items(), strict=True):
        for i, arm in enumerate(ARMS):
            values = [100 * value for value in scalars(measurements, f"{name}_{arm}")]
            axis.plot([i] * len(values), values, "o", color=PALETTE[i], alpha=0.6)
            axis.plot([i - 0.3, i + 0.3], [sum(values) / len(values)] * 2, color=PALETTE[i])
        bases = scalars(measurements, f"{name}_large")
        axis.axhline(100 * (sum(bases) / len(bases) - AS_GOOD), color=GREY, lw=0.8, ls="--")
        axis.set_xticks(range(len(ARMS)), [label.replace(", ", ",\n") for label in ARMS.values()])
        axis.set(ylabel="test accuracy, %", title=data.label)
    return figure


CLAIM = Claim(
    name="small_lr_generalizes",
    source="004: Li and Arora, blog post on normalized nets and the intrinsic LR (2020), “(Against CW 2)”, Figure 2",
    sentence=(
        "We ran extensive experiments to test this prediction and found that initial large LR is not necessary to match"
        " the best performance, even when all the other hyperparameters are fixed."
    ),
    threshold=(
        f"Test accuracy at a tenth of the baseline's lr, trained {sum(LONG) / sum(SHORT):.1f} times as long, less the"
        f" baseline's; as good if the 95 % interval lies above -{100 * AS_GOOD:g} point, worse if below. SUPPORTED if"
        f" as good on all problems ({', '.join(data.label for data in PROBLEMS.values())}); REFUTED if worse on all;"
        f" PARTLY if as good on one and worse on another; INCONCLUSIVE otherwise, or if on no problem where it is as"
        f" good the small lr for the baseline's steps is worse than the baseline (interval below 0)."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=8,
)
