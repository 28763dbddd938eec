"""The lr in proportion to the batch size, for SGD: the same training at a small lr, too long a step at a tuned one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import exp
from typing import TYPE_CHECKING, Final

import torch

from truestep.lab._claim import Claim, Judgement, Measurement
from truestep.lab._digits import digits
from truestep.lab._interval import Interval
from truestep.lab._lr_rules import BASE, EPOCHS, THRESHOLD, Setup, judge_rules, plot_rules, run_rules

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SGD: Final = Setup(
    build=lambda lr: partial(torch.optim.SGD, lr=lr),
    lr=0.02,
    grid=range(-6, 5),
    rules={},
)


def run(seed: int, device: str) -> Measurement:
    """Gaps of the constant, square-root and linear rule at lr .02; regrets and best lrs from a grid."""
    return run_rules(SGD, digits(device), seed)


def told(interval: dict[str, Interval]) -> str:
    """The reason, with the numbers in it."""
    factor = {name: exp(interval[name].mean) for name in interval if "gap" in name or "regret" in name}
    return (
        f"From batch {BASE}, lr {SGD.lr}, to 64: the loss after {EPOCHS[-1]} epochs is {factor['linear_gap_8']:.2f}"
        f" times the base's with the linear rule, {factor['sqrt_gap_8']:.1f} with sqrt, {factor['const_gap_8']:.1f}"
        f" with none; at 256, linear gives {factor['linear_gap_32']:.2f}. The power of k that keeps the loss at 64 is"
        f" {interval['matching_power']}. A tuned lr does not scale: the best of a grid goes as"
        f" B^{interval['best_slope']}, from {interval['best_1'].mean:.2g} at {BASE} to {interval['best_64'].mean:.2g}"
        f" at 512; from there, at 4 times the batch the linear rule's loss is {factor['linear_regret_4']:.3g} times the"
        f" best, sqrt's {factor['sqrt_regret_4']:.3g}, the constant's {factor['const_regret_4']:.2g}."
    )


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The linear rule's gaps at the small lr, and its regret at the tuned one."""
    return judge_rules(measurements, told)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Gap against the factor; best lr against the batch size."""
    return plot_rules(measurements, ("const", "sqrt", "linear"))


CLAIM = Claim(
    name="linear_lr_sgd",
    source=(
        "002: Wood, “The Perfect Solution to Loss Reduction in Deep Learning!”, section “The Perfect Solution: My"
        " Recommendation”"
    ),
    sentence="learning_rate = BATCH_SIZE * your_tuned_lr / your_original_batch_size",
    threshold=f"SGD, lr {SGD.lr} at batch {BASE}, {THRESHOLD}",
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
