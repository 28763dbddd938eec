"""The worked example of sum and mean, number by number.

One weight, 64 samples a batch of which 8 are misclassified, slope 0.5 for each of these: torch takes the steps that the
source computes. The loss is linear in the weight, as the source tacitly assumes when it adds two updates (the 0-1 loss
that it names has slope 0); an arm with a curved loss shows what two steps and one step of twice the batch differ by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREY, ORANGE, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH: Final = 64
WRONG: Final = 8  # of a batch
SLOPE: Final = 0.5  # dL/dW of a misclassified sample
LR: Final = 0.01  # with the sum; the source's mean takes BATCH times that
CURVED_LRS: Final = (1e-4, 1e-3, 1e-2)

EXACT: Final = 1e-12  # error that counts as round-off


class Arm(NamedTuple):
    """One of the source's computations: batches of which size, how reduced, at which lr, and what it prints."""

    label: str
    sizes: tuple[int, ...]
    reduction: str
    lr: float
    printed: float | None


ARMS: Final = {
    "sum_one": Arm("sum, one batch of 64", (BATCH,), "sum", LR, None),
    "sum_two": Arm("sum, two batches of 64", (BATCH, BATCH), "sum", LR, -0.04),
    "sum_mega": Arm("sum, one batch of 128", (2 * BATCH,), "sum", LR, -0.04),
    "mean_one": Arm("mean, one batch of 64", (BATCH,), "mean", BATCH * LR, -0.04),
    "mean_two": Arm("mean, two batches of 64", (BATCH, BATCH), "mean", BATCH * LR, None),
    "mean_mega": Arm("mean, one batch of 128", (2 * BATCH,), "mean", BATCH * LR, -0.04),
    "mean_mega_scaled": Arm("mean, 128, lr doubled", (2 * BATCH,), "mean", 2 * BATCH * LR, None),
}


def update(arm: Arm, wrong: Float64[Tensor, " samples"], curvature: float = 0.0) -> float:
    """What the weight moves over the arm's batches; `wrong` is 1 for a misclassified sample, else 0."""
    w = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=arm.lr)
    for part in wrong.split(list(arm.sizes)):
        losses = part * (1 + SLOPE * w + curvature * w**2 / 2)  # 1 each at w = 0, as the 0-1 loss has it
        optimizer.zero_grad()
        (losses.sum() if arm.reduction == "sum" else losses.mean()).backward()
        optimizer.step()
    return w.item()


def misclassified(generator: torch.Generator) -> Float64[Tensor, " samples"]:
    """Two batches with 8 wrong samples each, at random places."""
    wrong = torch.zeros(2, BATCH, dtype=torch.float64)
    for row in wrong:
        row[torch.randperm(BATCH, generator=generator)[:WRONG]] = 1.0
    return wrong.flatten()


def run(seed: int, device: str) -> Measurement:
    """Each arm's update; and with a curved loss, by how much two steps and one differ, relative, at several lrs."""
    wrong = misclassified(torch.Generator().manual_seed(seed)).to(device)
    out: Measurement = {name: update(arm, wrong[: sum(arm.sizes)]) for name, arm in ARMS.items()}
    out["mega_mean_loss"] = wrong.mean().item()
    curved: list[float] = []
    for lr in CURVED_LRS:
        two, one = (update(ARMS[name]._replace(lr=lr), wrong, curvature=1.0) for name in ("sum_two", "sum_mega"))
        curved.append(abs(two / one - 1))
    return out | {"curved": curved}


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Compare with the printed values, and the source's three comparisons with each other."""
    value = {name: scalars(measurements, name)[0] for name in ARMS}
    drawn = max(abs(x - value[name]) for name in ARMS for x in scalars(measurements, name))
    comparisons = (
        abs(value["sum_two"] - value["sum_mega"]) < EXACT,  # the sum is agnostic
        abs(value["mean_mega"] - value["mean_two"] / 2) < EXACT,  # the mean's step is halved
        abs(value["mean_mega_scaled"] - value["mean_two"]) < EXACT,  # and the remedy doubles it again
        abs(value["sum_two"] - value["mean_two"]) < EXACT,  # lr · 64 makes the mean the sum
    )
    off = [name for name, arm in ARMS.items() if arm.printed is not None and abs(arm.printed - value[name]) > EXACT]
    holds = Verdict.PARTLY if off else Verdict.SUPPORTED
    verdict = holds if all(comparisons) else Verdict.REFUTED
    if drawn > EXACT:  # arithmetic knows no seed
        verdict = Verdict.INCONCLUSIVE
    curved = curves(measurements, "curved")[0]
    wrong = "; ".join(f"{ARMS[name].label}: {ARMS[name].printed}, is {value[name]:.2f}" for name in off)
    reason = (
        f"All comparisons hold: 128 samples move the weight by {value['sum_two']:.2f} under the sum however they are"
        f" cut; under the mean at the same lr by {value['mean_mega']:.2f} in one batch, half of"
        f" {value['mean_two']:.2f} in two; the lr times two restores it. Printed wrongly: {wrong or 'nothing'}. Adding"
        f" two updates is exact for a linear loss only: with curvature 1 they are {100 * curved[-1]:.1f} % less at lr"
        f" {CURVED_LRS[-1]}, {100 * curved[0]:.2f} % at {CURVED_LRS[0]}."
    )
    numbers = dict(value) | {f"curved_{lr:g}": error for lr, error in zip(CURVED_LRS, curved, strict=True)}
    return Judgement(verdict, reason, {}, numbers)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """What torch moves the weight by, beside what the source prints."""
    figure, (axis,) = panels()
    names = list(ARMS)[::-1]
    values = [scalars(measurements, name)[0] for name in names]
    axis.barh(names, values, color=BLUE, height=0.6, label="torch.optim.SGD")
    printed = [(name, arm.printed) for name, arm in ARMS.items() if arm.printed is not None]
    axis.plot([x for _, x in printed], [name for name, _ in printed], "D", color=ORANGE, label="printed in the source")
    for name, value in zip(names, values, strict=True):
        axis.annotate(f"{value:.2f}", (value, name), (-9, 0), textcoords="offset points", ha="right", va="center")
    axis.set_yticks(range(len(names)), [ARMS[name].label for name in names])
    axis.set(xlabel="ΔW₁ (the weight's own unit)", xlim=(-0.098, 0.0))
    axis.grid(axis="x", color=GREY, alpha=0.2, lw=0.5)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


CLAIM = Claim(
    name="loss_reduction_example",
    source="002: Wood, “The Perfect Solution to Loss Reduction in Deep Learning!”, section “Learning Rate Tuning”",
    sentence="so your final weight update after the two batches will be `ΔW_1=-2*8*0.5*0.01=-0.04`.",
    threshold=(
        f"Every update of the section, taken by torch.optim.SGD on one float64 weight, to {EXACT:.0e}. SUPPORTED if all"
        f" printed values come out; PARTLY if the comparisons hold (two batches = one of both under the sum; half under"
        f" the mean; restored by twice the lr; mean at lr · 64 = sum) but a printed value does not; REFUTED if a"
        f" comparison fails; INCONCLUSIVE if an update depends on the seed."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
