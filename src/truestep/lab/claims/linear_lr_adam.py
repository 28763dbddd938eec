r"""The lr in proportion to the batch size, for Adam, whose rule it is not.

The source argues with SGD and restricts its rule to no optimizer. Adam divides by the gradient's own size, so the sum's
lr is the mean's lr (up to eps): that the mean at lr · B equals the sum is no argument for any rule. Where noise
dominates the gradient, theory says :math:`\eta \sqrt k` with :math:`1 - \beta` times k and :math:`\epsilon / \sqrt k`
(Malladi et al., 2022), called sde below; where it does not, lr in proportion to k. Digits lie between.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import exp
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from truestep.lab._batch_size import Build, network, steps
from truestep.lab._claim import Claim, Judgement, Measurement
from truestep.lab._digits import Digits, digits
from truestep.lab._interval import Interval
from truestep.lab._lr_rules import BASE, EPOCHS, THRESHOLD, Setup, judge_rules, plot_rules, run_rules

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETAS: Final = (0.9, 0.999)
EPS: Final = 1e-8
NO_OP_STEPS: Final = 100


def sde(lr: float, k: int) -> Build:
    """Adam's square-root rule with betas and eps; a beta that would be negative (k > 10) is 0."""
    betas = (max(0.0, 1 - k * (1 - BETAS[0])), max(0.0, 1 - k * (1 - BETAS[1])))
    return partial(torch.optim.Adam, lr=lr * k**0.5, betas=betas, eps=EPS / k**0.5)


ADAM: Final = Setup(
    build=lambda lr: partial(torch.optim.Adam, lr=lr, betas=BETAS, eps=EPS),
    lr=3e-4,
    grid=range(-10, 0),
    rules={"sde": sde},
)


def sum_against_mean(data: Digits, seed: int, batch_size: int, num_steps: int = NO_OP_STEPS) -> float:
    """Distance of Adam's weights under the sum from those under the mean, the lr the same, over the distance moved."""

    def train(reduction: str) -> tuple[Tensor, Tensor]:
        model = network(seed, str(data.train_x.device))
        start = torch.cat([w.detach().flatten() for w in model.parameters()])
        for count in steps(ADAM.build(ADAM.lr), model, data, seed, batch_size=batch_size, reduction=reduction):
            if count == num_steps:
                break
        return start, torch.cat([w.detach().flatten() for w in model.parameters()])

    start, mean = train("mean")
    _, summed = train("sum")
    return ((summed - mean).norm() / (mean - start).norm()).item()


def run(seed: int, device: str) -> Measurement:
    """Gaps of four rules at lr 3e-4; regrets and best lrs from a grid; what the sum changes under Adam."""
    data = digits(device)
    return run_rules(ADAM, data, seed) | {"sum_against_mean": sum_against_mean(data, seed, 64)}


def told(interval: dict[str, Interval]) -> str:
    """The reason, with the numbers in it."""
    factor = {name: exp(interval[name].mean) for name in interval if "gap" in name or "regret" in name}
    return (
        f"From batch {BASE}, lr {ADAM.lr:g}, to 64: the loss after {EPOCHS[-1]} epochs is {factor['linear_gap_8']:.2f}"
        f" times the base's with the linear rule (it oversteps), {factor['sqrt_gap_8']:.2f} with sqrt,"
        f" {factor['sde_gap_8']:.2f} with sqrt, betas and eps, {factor['const_gap_8']:.1f} with none: the power of k"
        f" that keeps the loss is {interval['matching_power']}. The best lr of a grid goes as"
        f" B^{interval['best_slope']}. From it, at 4 times the batch the linear rule's loss is"
        f" {factor['linear_regret_4']:.3g} times the best, sqrt's {factor['sqrt_regret_4']:.3g}, the constant's"
        f" {factor['const_regret_4']:.2g}. Sum and mean at the same lr differ by"
        f" {100 * interval['sum_against_mean'].mean:.1g} % of the way: under Adam the sum scales nothing."
    )


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The linear rule's gaps at the small lr, and its regret at the tuned one."""
    return judge_rules(measurements, told)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Gap against the factor; best lr against the batch size."""
    return plot_rules(measurements, ("const", "sqrt", "sde", "linear"))


CLAIM = Claim(
    name="linear_lr_adam",
    source=(
        "002: Wood, “The Perfect Solution to Loss Reduction in Deep Learning!”, section “The Perfect Solution: My"
        " Recommendation”"
    ),
    sentence="learning_rate = BATCH_SIZE * your_tuned_lr / your_original_batch_size",
    threshold=f"Adam, lr {ADAM.lr:g} at batch {BASE}, {THRESHOLD}",
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
