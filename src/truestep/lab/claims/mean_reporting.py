r"""What reporting the mean buys: one scale for every batch size; and what it does not: a mean of means is no mean.

The losses of one trained net are logged as a training loop would, batch by batch, and an epoch's number is the average
of what was logged. With equal batches that is the mean over samples, and one batch is off by its noise, which falls as
:math:`B^{-1/2}` and faster where batches near the size of the epoch. With a short last batch, or with targets that are
ignored, it weights samples by the company they were in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.core import sum_count
from truestep.lab._batch_size import IMAGES, network, slope, steps
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import Digits, digits
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES: Final = (8, 16, 32, 64, 128, 256, 512)
LR: Final = 0.1
TRAIN_STEPS: Final = 100  # of 32 images: the loss is then near .5 nats, some samples solved, some not
RAGGED: Final = 128  # cuts 1200 images into nine batches and one of 48
ROW: Final = 32  # targets in a row, of which 1 to 32 are kept
DRAWS: Final = 200
WINDOWS: Final = 20  # of which the gradient is compared
KEY_NOISE: Final = 0.3  # of the order that gives short rows the hard samples; 0 would be a strict order

LEVEL: Final = 0.02  # how far the logged number may move with the batch size, relative
ERROR: Final = 0.01  # rms error of an epoch's number that counts as exact enough

Cut: TypeAlias = Callable[[Tensor, torch.Generator], list[Tensor]]  # losses to the indices of each batch


def trained(data: Digits, seed: int) -> nn.Sequential:
    """A net that solves some of the images."""
    model = network(seed, str(data.train_x.device))
    for count in steps(partial(torch.optim.SGD, lr=LR), model, data, seed, batch_size=32):
        if count == TRAIN_STEPS:
            break
    return model


def full(losses: Float64[Tensor, " n"], generator: torch.Generator) -> list[Tensor]:
    """Equal batches."""
    return list(_shuffled(losses[:IMAGES], generator).split(RAGGED))


def ragged(losses: Float64[Tensor, " n"], generator: torch.Generator) -> list[Tensor]:
    """Equal batches and a short last one."""
    return list(_shuffled(losses, generator).split(RAGGED))


def ignored(losses: Float64[Tensor, " n"], generator: torch.Generator) -> list[Tensor]:
    """Rows that keep 1 to 32 targets, whatever the targets are."""
    return _rows(_shuffled(losses, generator), generator)


def ignored_hard(losses: Float64[Tensor, " n"], generator: torch.Generator) -> list[Tensor]:
    """The same rows, the shorter ones harder: as later tokens of a text are easier than first ones."""
    rank = losses.argsort().argsort().double() / len(losses)
    noise = KEY_NOISE * torch.randn(len(losses), generator=generator, dtype=torch.float64).to(losses.device)
    return _rows((rank + noise).argsort(descending=True), generator, ascending=True)


def _shuffled(losses: Tensor, generator: torch.Generator) -> Int[Tensor, " n"]:
    return torch.randperm(len(losses), generator=generator).to(losses.device)


def _rows(order: Int[Tensor, " n"], generator: torch.Generator, *, ascending: bool = False) -> list[Tensor]:
    """Cut into rows of random length, what is left over is ignored; `ascending` gives the short rows the first."""
    lengths = torch.randint(1, ROW + 1, (len(order) // ROW,), generator=generator)
    lengths = (lengths.sort().values if ascending else lengths).tolist()
    rows = order[: sum(lengths)].split(lengths)
    return [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]


CUTS: Final[dict[str, tuple[str, Cut]]] = {
    "full": ("equal batches", full),
    "ragged": ("short last batch", ragged),
    "ignored": ("ignored targets", ignored),
    "ignored_hard": ("ignored targets,\nshort rows harder", ignored_hard),
}


def cut_errors(
    losses: Float64[Tensor, " n"], cut: Cut, generator: torch.Generator, draws: int = DRAWS
) -> dict[str, float]:
    """Relative error of the mean of batch means, its rms and its mean over draws; the SumCount's largest."""
    errors: list[float] = []
    worst = 0.0
    for _ in range(draws):
        parts = cut(losses, generator)
        exact = losses[torch.cat(parts)].mean().item()
        errors.append(torch.stack([losses[part].mean() for part in parts]).mean().item() / exact - 1)
        added = sum_count(losses[parts[0]])
        for part in parts[1:]:
            added = added + sum_count(losses[part])
        worst = max(worst, abs(added.mean.item() / exact - 1))
    e = torch.tensor(errors, dtype=torch.float64)
    return {"rms": e.square().mean().sqrt().item(), "bias": e.mean().item(), "sum_count": worst}


def gradient_error(model: nn.Module, data: Digits, losses: Tensor, cut: Cut, generator: torch.Generator) -> float:
    """Median relative error of the gradient of the mean of means, over windows of eight batches."""

    def gradient(index: Tensor, weight: Tensor) -> Tensor:
        each = cross_entropy(model(data.train_x[index]), data.train_y[index], reduction="none")
        return torch.cat([g.flatten() for g in torch.autograd.grad((each * weight).sum(), list(model.parameters()))])

    errors: list[float] = []
    for _ in range(WINDOWS):
        parts = cut(losses, generator)[-8:]
        index = torch.cat(parts)
        means = torch.cat([torch.full((len(part),), 1 / len(part) / len(parts)) for part in parts]).to(index.device)
        exact = gradient(index, torch.full_like(means, 1 / len(index)))
        errors.append(((gradient(index, means) - exact).norm() / exact.norm()).item())
    return median(errors)


def levels(losses: Float64[Tensor, " n"], size: int, generator: torch.Generator) -> tuple[float, float, float]:
    """Average logged sum, average logged mean, and the relative sd of one logged mean, over ten epochs."""
    logged = torch.cat([losses[_shuffled(losses, generator)].view(-1, size) for _ in range(10)])  # [batches, size]
    mean = logged.mean(1)
    return logged.sum(1).mean().item(), mean.mean().item(), (mean.std() / mean.mean()).item()


def run(seed: int, device: str) -> Measurement:
    """Level and noise of the logged number by batch size, and the errors of an epoch's mean by cut."""
    data, generator = digits(device), torch.Generator().manual_seed(seed)
    model = trained(data, seed)
    with torch.no_grad():
        losses = cross_entropy(model(data.train_x).double(), data.train_y, reduction="none")
    rows = [levels(losses[:IMAGES], size, generator) for size in SIZES]
    out: Measurement = {"sum": [row[0] for row in rows], "mean": [row[1] for row in rows]}
    noise = [row[2] for row in rows]
    out |= {"noise": noise, "noise_slope": slope(dict(zip(SIZES, noise, strict=True)))}
    out |= {
        f"{name}_spread": max(x) / min(x) for name, x in (("sum", [r[0] for r in rows]), ("mean", [r[1] for r in rows]))
    }
    for name, (_, cut) in CUTS.items():
        out |= {f"{name}_{key}": value for key, value in cut_errors(losses, cut, generator).items()}
        out[f"{name}_gradient"] = gradient_error(model, data, losses, cut, generator)
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The level over batch sizes decides whether the claim stands, the cuts whether it stands without a condition."""
    names = ["noise_slope", *(f"{name}_{key}" for name in CUTS for key in ("rms", "bias", "gradient"))]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    spread = {name: max(scalars(measurements, f"{name}_spread")) for name in ("sum", "mean")}
    sum_count_error = max(x for name in CUTS for x in scalars(measurements, f"{name}_sum_count"))
    exact = all(interval[f"{name}_rms"].high <= ERROR for name in CUTS)
    if spread["sum"] <= 1 + LEVEL:
        verdict = Verdict.INCONCLUSIVE
    elif spread["mean"] > 1 + LEVEL:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.SUPPORTED if exact else Verdict.PARTLY
    percent = {name: 100 * interval[name].mean for name in interval}
    reason = (
        f"From batch {SIZES[0]} to {SIZES[-1]} the average logged number is the same to {spread['mean'] - 1:.0e}"
        f" under the mean and grows {spread['sum']:.0f} times under the sum; a single one's noise falls as"
        f" B^{interval['noise_slope'].mean:.2f}. But an epoch's mean of logged means is off by"
        f" {percent['ragged_rms']:.1f} % rms with a short last batch, {percent['ignored_rms']:.0f} % with ignored"
        f" targets, {percent['ignored_hard_rms']:.0f} % where short rows are harder (a bias), and the gradient of the"
        f" mean of eight such means by {percent['ignored_gradient']:.0f} % with ignored targets; sum and count, divided"
        f" last, by {sum_count_error:.0e}."
    )
    return Judgement(verdict, reason, interval, {f"{k}_spread": v for k, v in spread.items()})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Left the logged number against the batch size; right the error of an epoch's number by cut."""
    figure, (left, right) = panels(2)
    sizes = torch.tensor(SIZES)
    noise = torch.tensor(curves(measurements, "noise"))
    for name, color in (("sum", ORANGE), ("mean", BLUE)):
        for i, (level, sd) in enumerate(zip(torch.tensor(curves(measurements, name)), noise, strict=True)):
            left.plot(sizes, level, "o-", ms=3, lw=0.8, color=color, label=f"reduction {name}" if i == 0 else None)
            left.fill_between(sizes, level * (1 - sd).clamp_min(0.02), level * (1 + sd), color=color, alpha=0.08, lw=0)
    left.set(xscale="log", yscale="log", xticks=SIZES, xticklabels=[str(size) for size in SIZES])
    left.minorticks_off()
    left.set(xlabel="batch size", ylabel="logged loss, nats", title="same net: average logged number, band ± sd of one")
    left.legend()
    for i, name in enumerate(CUTS):
        for key, color, shift in (("rms", BLUE, 0.2), ("gradient", GREEN, -0.2)):
            value = 100 * t_interval(scalars(measurements, f"{name}_{key}")).mean
            right.barh(i + shift, value, 0.36, color=color)
            right.annotate(f"{value:.1f}", (value, i + shift), (3, 0), textcoords="offset points", va="center")
    right.set_yticks(range(len(CUTS)), [label for label, _ in CUTS.values()])
    right.barh([0], [0], color=BLUE, label="epoch's loss (rms)")
    right.barh([0], [0], color=GREEN, label="gradient of 8 batches (median)")
    right.set(xlabel="relative error of the mean of batch means, %", title="sum and count have none of it")
    right.legend(loc="lower right")
    right.grid(axis="x", color=GREY, alpha=0.2, lw=0.5)
    return figure


CLAIM = Claim(
    name="mean_reporting",
    source=(
        "002: Wood, “The Perfect Solution to Loss Reduction in Deep Learning!”, section “Batch-level loss reporting”"
    ),
    sentence=(
        "In summary, due to the fact that `mean()` reduced losses remain on the scale of sample-wise losses, `mean()`"
        " reduced losses are much easier to reason about than `sum()` reduced."
    ),
    threshold=(
        f"The logged losses of one net. SUPPORTED if their average stays within {100 * LEVEL:.0f} % from batch"
        f" {SIZES[0]} to {SIZES[-1]} under the mean, and an epoch's mean of batch means is within"
        f" {100 * ERROR:.0f} % rms of the mean over samples with equal batches, a short last batch, ignored targets,"
        f" and ignored targets with harder short rows (95 % interval); PARTLY if only the first holds; REFUTED if it"
        f" fails; INCONCLUSIVE if it holds under the sum too."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
