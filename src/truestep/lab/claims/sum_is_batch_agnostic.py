r"""An lr tuned under the summed loss serves every batch size; under the mean it does not.

To first order in the lr, steps over n samples add up to :math:`-\eta \sum_i \nabla \ell_i` under the sum, however they
are cut. The second order is the curvature: a step of a batch of B is :math:`\eta B` times the mean gradient, and a step
longer than 2 / sharpness diverges. So the sum's lr is agnostic where :math:`\eta B` stays below that edge, and the best
lr, which lies near the edge, is where it stops to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import exp, log, log2
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from truestep.lab._batch_size import loss_after, network, sharpness, slope, steps
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import Digits, digits
from truestep.lab._figure import GREY, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES: Final = (8, 16, 32, 64, 128, 256, 512)
EPOCHS: Final = 10
POWERS: Final = tuple(range(-15, -2))  # the grid: lr under the sum, 2^-15 to 2^-3
SMALL: Final = -9  # the small lr: 2^-9 under the sum, 2^-6 under the mean of a batch of 8
IDENTITY_STEPS: Final = 50

SAME: Final = 0.1  # |log(loss / loss at batch 8)| that counts as the same training
FLAT: Final = 0.1  # |exponent of the best lr in the batch size| that counts as agnostic
REACH: Final = 64  # batch size to which the small lr must serve


def sgd(lr: float) -> partial[torch.optim.SGD]:
    """Plain SGD at an lr."""
    return partial(torch.optim.SGD, lr=lr)


def identity(data: Digits, seed: int, batch_size: int) -> float:
    """Largest difference of weights after some steps under the sum at lr and under the mean at lr · B."""

    def train(reduction: str, lr: float) -> Tensor:
        model = network(seed, str(data.train_x.device))
        for count in steps(sgd(lr), model, data, seed, batch_size=batch_size, reduction=reduction):
            if count == IDENTITY_STEPS:
                break
        return torch.cat([w.detach().flatten() for w in model.parameters()])

    return (train("sum", 2.0**SMALL) - train("mean", 2.0**SMALL * batch_size)).abs().max().item()


def steepest(data: Digits, seed: int, epochs: int) -> float:
    """Largest sharpness on the way at batch 8 and the small lr, looked at after each epoch."""
    model = network(seed, str(data.train_x.device))
    found = [sharpness(model, data)]
    for count in steps(sgd(2.0**SMALL), model, data, seed, batch_size=8, reduction="sum"):
        if count % 128 == 0:
            found.append(sharpness(model, data))
        if count == 128 * epochs:
            break
    return max(found)


def run(
    seed: int, device: str, *, powers: Sequence[int] = POWERS, sizes: Sequence[int] = SIZES, epochs: int = EPOCHS
) -> Measurement:
    """Loss over the grid of lr and batch size, the gaps at the small lr and the exponent of the best lr."""
    data = digits(device)
    loss = {
        (size, power): loss_after(sgd(2.0**power), data, seed, batch_size=size, epochs=(epochs,), reduction="sum")[0]
        for size in sizes
        for power in powers
    }
    best = {size: min(powers, key=lambda power: loss[size, power]) for size in sizes}
    out: Measurement = {
        "best_slope": slope({size: 2.0**power for size, power in best.items()}),
        "identity": max(identity(data, seed, size) for size in sizes),
        "sharpness": steepest(data, seed, epochs),
        "power": [float(power) for power in powers],
    }
    for size in sizes:
        small = {"sum": SMALL, "mean": SMALL - round(log2(size / sizes[0]))}  # of the sum's grid
        for name, power in small.items():
            out[f"{name}_gap_{size}"] = log(loss[size, power] / loss[sizes[0], SMALL])
        out[f"tuned_gap_{size}"] = log(loss[size, best[sizes[0]]] / loss[sizes[0], best[sizes[0]]])
        out[f"best_power_{size}"] = float(best[size])
        out[f"loss_{size}"] = [loss[size, power] for power in powers]
    return out


def same(gap: Interval) -> bool:
    """Whether a gap lies within ±SAME."""
    return gap.low >= -SAME and gap.high <= SAME


def differs(gap: Interval) -> bool:
    """Whether a gap lies outside ±SAME."""
    return gap.low > SAME or gap.high < -SAME


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The best lr's exponent decides for SUPPORTED, the small lr's reach for PARTLY."""
    names = [f"{kind}_gap_{size}" for kind in ("sum", "mean", "tuned") for size in SIZES[1:]]
    interval = {name: t_interval(scalars(measurements, name)) for name in ("best_slope", "sharpness", *names)}
    slope_ = interval["best_slope"]
    reach = [size for size in SIZES[1:] if size <= REACH]
    holds = all(same(interval[f"sum_gap_{size}"]) for size in reach) and differs(interval[f"mean_gap_{REACH}"])
    agnostic = (
        all(same(interval[f"sum_gap_{size}"]) for size in SIZES[1:]) and -FLAT <= slope_.low <= slope_.high <= FLAT
    )
    if holds:
        verdict = Verdict.SUPPORTED if agnostic else Verdict.PARTLY
    elif differs(interval["sum_gap_16"]) or same(interval[f"mean_gap_{REACH}"]):
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.INCONCLUSIVE
    error = max(scalars(measurements, "identity"))
    return Judgement(verdict, told(measurements, interval), interval, {"identity": error})


def told(measurements: Sequence[Measurement], interval: dict[str, Interval]) -> str:
    """The reason, with the numbers in it."""
    best = {size: 2 ** t_interval(scalars(measurements, f"best_power_{size}")).mean for size in (SIZES[0], SIZES[-1])}
    factor = {name: exp(gap.mean) for name, gap in interval.items() if "gap" in name}
    return (
        f"At a small lr ({2.0**SMALL:.4f} under the sum) the loss after {EPOCHS} epochs changes by"
        f" {100 * (factor[f'sum_gap_{REACH}'] - 1):.1f} % from batch 8 to {REACH} under the sum and by a factor"
        f" {factor[f'mean_gap_{REACH}']:.1f} under the mean; at 512 by a factor {factor['sum_gap_512']:.2f} under the"
        f" sum. A tuned lr is not agnostic: the best one under the sum goes as B^{interval['best_slope']} (0 if"
        f" agnostic; 1 more under the mean), for as lr · B it stays between {8 * best[8]:.2g} (B = 8) and"
        f" {512 * best[512]:.2g} (B = 512), where steps grow unstable: 2 / sharpness is"
        f" {2 / interval['sharpness'].mean:.2g} in the run at the small lr. Sum at lr and mean at lr · B: weights"
        f" differ by {max(scalars(measurements, 'identity')):.0g}."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Final loss against the lr, under the sum and under the mean, a curve a batch size (mean of log over seeds)."""
    figure, (left, right) = panels(2)
    powers = torch.tensor(curves(measurements, "power")[0])
    for i, size in enumerate(SIZES):
        loss = torch.tensor(curves(measurements, f"loss_{size}")).log().mean(0).exp()
        color = (0.0 + 0.85 * i / 6, 0.45 - 0.1 * i / 6, 0.7 - 0.7 * i / 6)  # from blue to orange
        for axis, factor in ((left, 1), (right, size)):
            axis.plot(factor * 2.0**powers, loss, "o-", ms=2.5, lw=1, color=color, label=f"B = {size}")
    edge = 2 / t_interval(scalars(measurements, "sharpness")).mean
    right.axvline(edge, color=GREY, lw=1, ls="--", label="2 / sharpness")
    left.axvline(2.0**SMALL, color=GREY, lw=1, ls=":", label="the small lr")
    left.set(xlabel="lr under the sum (1/samples)", title="sum: curves agree at small lr, not at their minima")
    right.set(xlabel="lr under the mean", title="mean: they part at small lr and meet at one edge")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", ylabel=f"training loss after {EPOCHS} epochs, nats")
        axis.legend()
        axis.grid(color=GREY, alpha=0.2, lw=0.5)
    return figure


CLAIM = Claim(
    name="sum_is_batch_agnostic",
    source="002: Wood, “The Perfect Solution to Loss Reduction in Deep Learning!”, section “Learning Rate Tuning”",
    sentence=(
        "The `sum()` method allows you to tune learning rates agnostic to batch sizes, while the `mean()` is not"
        " batch-size agnostic."
    ),
    threshold=(
        f"SGD on digits, training loss after {EPOCHS} epochs against that at batch 8; the same if the 95 % interval of"
        f" the log ratio lies within ±{SAME}. SUPPORTED if, at lr 2^{SMALL} under the sum, it is the same to batch 512"
        f" under the sum and not under the mean, and the best lr of a grid goes as B^a under the sum, a within ±{FLAT};"
        f" PARTLY if only the first holds, and to batch {REACH}; REFUTED if the sum differs already at 16, or the mean"
        f" is the same at {REACH}; INCONCLUSIVE if an interval crosses an edge."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
