"""Twice the batch at the mean's lr: half as many steps an epoch, so twice the epochs if it is steps that count.

Where the noise of a batch matters, for it may slow or stop the descent, larger batches save some of the steps and the
factor falls below two. Where the lr is near its upper end, a halved batch is a doubled lr per sample, and worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import log
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from truestep.lab._batch_size import Build, network, steps, training_loss
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._digits import Digits, accuracy, digits
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PINK, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET: Final = 0.3  # training loss in nats
EVERY: Final = 4  # steps between two looks at it
MAX_STEPS: Final = 10_000
PAIRS: Final = ((8, 16), (32, 64), (128, 256))
EPOCHS: Final = 20  # after which a halved batch is compared with a whole one
WHOLE: Final = 16  # that batch

TWICE: Final = (1.9, 2.1)  # a factor between these counts as two


class Arm(NamedTuple):
    """An optimizer at an lr."""

    label: str
    optimizer: type[torch.optim.SGD | torch.optim.Adam]
    lr: float
    color: str

    def build(self, factor: float = 1.0) -> Build:
        """The optimizer at `factor` times the lr."""
        return partial(self.optimizer, lr=factor * self.lr)


ARMS: Final = {
    "sgd": Arm("SGD, lr .02", torch.optim.SGD, 0.02, BLUE),
    "sgd_large": Arm("SGD, lr .32", torch.optim.SGD, 0.32, ORANGE),
    "adam": Arm("Adam, lr 1e-3", torch.optim.Adam, 1e-3, GREEN),
}
HALVED: Final = {  # a whole and a halved batch, at the same lr
    "sgd": ARMS["sgd"],
    "sgd_large": ARMS["sgd_large"],
    "sgd_edge": Arm("SGD, lr 1", torch.optim.SGD, 1.0, PINK),
    "adam": ARMS["adam"],
}


def samples_to_target(build: Build, data: Digits, seed: int, batch_size: int, target: float = TARGET) -> float:
    """Samples until the training loss first is at the target; linear in its logarithm between two looks."""
    model = network(seed, str(data.train_x.device))
    before = log(training_loss(model, data))
    for count in steps(build, model, data, seed, batch_size=batch_size):
        if count % EVERY:
            continue
        now = log(training_loss(model, data))
        if now <= log(target):
            return batch_size * (count - EVERY * (log(target) - now) / (before - now))
        if count >= MAX_STEPS:
            break
        before = now
    return float(batch_size * MAX_STEPS)


def final_accuracy(build: Build, data: Digits, seed: int, batch_size: int) -> float:
    """Share of the test images got right after `EPOCHS` epochs."""
    model = network(seed, str(data.train_x.device))
    for count in steps(build, model, data, seed, batch_size=batch_size):
        if count * batch_size >= EPOCHS * 1024:
            break
    return accuracy(model, data)


def run(seed: int, device: str) -> Measurement:
    """Factor in samples for each arm and doubling, also with twice the lr; accuracy gained by a halved batch."""
    data = digits(device)
    out: Measurement = {}
    for name, arm in ARMS.items():
        for small, large in PAIRS:
            base = samples_to_target(arm.build(), data, seed, small)
            out[f"{name}_factor_{small}"] = samples_to_target(arm.build(), data, seed, large) / base
            out[f"{name}_scaled_{small}"] = samples_to_target(arm.build(2), data, seed, large) / base
            out[f"{name}_epochs_{small}"] = base / 1024
    for name, arm in HALVED.items():
        whole, half = (final_accuracy(arm.build(), data, seed, size) for size in (WHOLE, WHOLE // 2))
        out |= {f"{name}_accuracy": whole, f"{name}_gain": half - whole}
    return out


def is_two(factor: Interval) -> bool:
    """Whether the interval lies within `TWICE`."""
    return factor.low >= TWICE[0] and factor.high <= TWICE[1]


def is_not_two(factor: Interval) -> bool:
    """Whether the interval lies outside `TWICE`."""
    return factor.low > TWICE[1] or factor.high < TWICE[0]


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """All arms and doublings for SUPPORTED, SGD at the small lr for PARTLY."""
    names = [name for name in measurements[0] if not isinstance(measurements[0][name], list)]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    factor = {(name, small): interval[f"{name}_factor_{small}"] for name in ARMS for small, _ in PAIRS}
    small_lr = [factor["sgd", small] for small, _ in PAIRS]
    if all(map(is_two, factor.values())):
        verdict = Verdict.SUPPORTED
    elif all(map(is_two, small_lr)):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.REFUTED if any(map(is_not_two, small_lr)) else Verdict.INCONCLUSIVE
    return Judgement(verdict, told(interval), interval)


def told(interval: dict[str, Interval]) -> str:
    """The reason, with the numbers in it."""
    row = {name: ", ".join(f"{interval[f'{name}_factor_{small}'].mean:.2f}" for small, _ in PAIRS) for name in ARMS}
    again = {name: ", ".join(f"{interval[f'{name}_scaled_{small}'].mean:.2f}" for small, _ in PAIRS) for name in ARMS}
    gain = {name: f"{100 * interval[f'{name}_gain'].mean:+.1f}" for name in HALVED}
    whole = "; ".join(f"{ARMS[name].label}: {row[name]} ({again[name]})" for name in ARMS)
    return (
        f"Epochs to a training loss of {TARGET} at twice the batch, in brackets at twice the lr too, from batch"
        f" {', '.join(str(small) for small, _ in PAIRS)}. {whole}. The batch halved from {WHOLE} instead, {EPOCHS}"
        f" epochs, test accuracy in points: {', '.join(f'{HALVED[name].label} {gain[name]}' for name in HALVED)}."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Left the factor in epochs by arm and doubling, right what a halved batch does to the test accuracy."""
    figure, (left, right) = panels(2)
    for offset, (name, arm) in zip((-0.2, 0.0, 0.2), ARMS.items(), strict=True):
        _plot_factors(left, measurements, name, "factor", arm.label, offset)
        _plot_factors(left, measurements, name, "scaled", f"{arm.label}, doubled too", offset + 0.06)
    left.axhspan(*TWICE, color=GREY, alpha=0.25, lw=0)
    left.set_xticks(range(len(PAIRS)), [f"{small} → {large}" for small, large in PAIRS])
    left.set(xlabel="batch size", ylabel=f"epochs to a training loss of {TARGET} nats, ratio", ylim=(0, 3.2))
    left.legend(ncols=2)
    for i, (name, arm) in enumerate(HALVED.items()):
        gains = [100 * gain for gain in scalars(measurements, f"{name}_gain")]
        right.plot([i] * len(gains), gains, "o", color=arm.color, alpha=0.5)
        mean = f"mean {sum(gains) / len(gains):+.1f}"
        right.annotate(mean, (i, max(gains)), (0, 8), textcoords="offset points", ha="center")
    right.axhline(0, color=GREY, lw=0.8, ls=":")
    right.set_xticks(range(len(HALVED)), [arm.label for arm in HALVED.values()])
    right.margins(x=0.15, y=0.15)
    right.set(
        ylabel="test accuracy gained, points", title=f"batch {WHOLE} → {WHOLE // 2}, the lr the same, {EPOCHS} epochs"
    )
    return figure


def _plot_factors(axis: Any, measurements: Sequence[Measurement], name: str, key: str, label: str, at: float) -> None:
    """Means and 95 % intervals of one arm, beside the doublings' places."""
    found = [t_interval(scalars(measurements, f"{name}_{key}_{small}")) for small, _ in PAIRS]
    bars = [[f.mean - f.low for f in found], [f.high - f.mean for f in found]]
    color = ARMS[name].color
    look = {"fmt": "o", "ms": 4} if key == "factor" else {"fmt": "s", "ms": 3, "mfc": "white"}
    places = [j + at for j in range(len(PAIRS))]
    axis.errorbar(places, [f.mean for f in found], bars, color=color, capsize=2, lw=1, label=label, **look)


CLAIM = Claim(
    name="halved_lr",
    source="002: Wood, “The Perfect Solution to Loss Reduction in Deep Learning!”, section “Learning Rate Tuning”",
    sentence=(
        "Well, you have effectively halved your learning rate. What a huge waste of resources! You'll need to double"
        " your epoch count to achieve the same convergence."
    ),
    threshold=(
        f"Epochs to a training loss of {TARGET} nats on digits at twice the batch, over those at the batch, mean"
        f" reduction, the lr the same. SUPPORTED if the 95 % interval lies within {TWICE[0]} to {TWICE[1]} for SGD at"
        f" lr .02 and .32 and Adam at 1e-3, from batch 8, 32 and 128; PARTLY if so for SGD at lr .02; REFUTED if it"
        f" lies outside for that at any of them; INCONCLUSIVE if it crosses an edge."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
