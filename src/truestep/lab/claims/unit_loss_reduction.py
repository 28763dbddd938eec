r"""Divided by itself, a loss gives the same gradients however the batch was reduced.

:math:`\nabla L / L` is blind to any positive factor on the whole loss, and sum against mean is such a factor, also with
class weights and in a short last batch. What reduces the batch by other weights than a factor is not undone: the mean
of the means of unequal parts (micro-batches added up before the backward pass, or the rows of a padded batch), and a
penalty that is added to the loss and does not grow with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import t_interval
from truestep.lab._training import (
    Scale,
    cross_entropy_each,
    digits_problem,
    flat_gradient,
    flat_weights,
    plain_mlp,
    raw,
    train,
    unit,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (64,)
BATCH: Final = 64
EQUAL: Final = (16,) * 4
UNEQUAL: Final = (1, 5, 28, 30)
FACTORS: Final = (1e-8, 1e8)
PENALTY: Final = 1e-3  # times half the squared norm of the weights
EPOCHS: Final = 16  # of 19 batches, the last of 48 images: 304 steps
LR: Final = 0.1

SAME: Final = 1e-10  # error of a gradient, or of weights over the distance moved, that counts as none, in float64
OTHER: Final = 0.01  # and from which on it is another gradient

Reduction = Callable[[Tensor], Tensor]  # losses of a batch [n] to a scalar


def of_parts(losses: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The mean of the means of parts."""
    return torch.stack([part.mean() for part in losses.split(list(sizes))]).mean()


REDUCTIONS: Final[dict[str, tuple[str, Reduction]]] = {
    "sum": ("sum", torch.sum),
    "small": (f"mean × {FACTORS[0]:.0e}", lambda losses: FACTORS[0] * losses.mean()),
    "large": (f"mean × {FACTORS[1]:.0e}", lambda losses: FACTORS[1] * losses.mean()),
    "equal": ("mean of means, 4 × 16", partial(of_parts, sizes=EQUAL)),
    "unequal": ("mean of means, 1 + 5 + 28 + 30", partial(of_parts, sizes=UNEQUAL)),
}
FACTOR_ONLY: Final = ("sum", "small", "large", "weighted", "equal")  # what differs from the mean by a factor
CASES: Final = {name: label for name, (label, _) in REDUCTIONS.items()} | {
    "weighted": "sum, class weights",
    "penalty": "sum + penalty",
}


def unit_gradient(model: nn.Module, loss: Tensor) -> Tensor:
    """The gradient of a loss divided by itself."""
    model.zero_grad()
    (loss / loss.item()).backward()  # the source's line
    return flat_gradient(model)


def errors(seed: int, device: str) -> dict[str, float]:
    """Distance of the unit gradient under each reduction from that of the mean, relative."""
    generator = torch.Generator().manual_seed(seed)
    problem, _ = digits_problem(device, torch.float64)
    model = plain_mlp(WIDTHS, generator, device, torch.float64)
    index = torch.randint(len(problem.x), (BATCH,), generator=generator)
    target = problem.y[index]
    weight = torch.rand(10, generator=generator, dtype=torch.float64).to(device)[target] + 0.1  # [n]

    def off(reduced: Callable[[Tensor], Tensor], mean: Callable[[Tensor], Tensor]) -> float:
        one, two = (
            unit_gradient(model, f(cross_entropy_each(model(problem.x[index]), target))) for f in (reduced, mean)
        )
        return ((one - two).norm() / two.norm()).item()

    def penalised(losses: Tensor, total: Reduction) -> Tensor:
        return total(losses) + PENALTY / 2 * sum(p.square().sum() for p in model.parameters())

    out = {name: off(reduction, torch.mean) for name, (_, reduction) in REDUCTIONS.items()}
    out["weighted"] = off(lambda each: (weight * each).sum(), lambda each: (weight * each).sum() / weight.sum())
    out["penalty"] = off(partial(penalised, total=torch.sum), partial(penalised, total=torch.mean))
    return out


def apart(mean: Scale, other: Scale, lr: float, seed: int, device: str, epochs: int) -> float:
    """Distance between the weights of two trainings, over the distance that the first moved."""
    ends: list[Tensor] = []
    start = torch.empty(0)
    for scale, its_lr in ((mean, LR), (other, lr)):
        generator = torch.Generator().manual_seed(seed)
        problem, _ = digits_problem(device, torch.float64)
        model = plain_mlp(WIDTHS, generator, device, torch.float64)
        start = flat_weights(model)
        for _ in train(model, problem, scale, lr=its_lr, batch_size=BATCH, epochs=epochs, generator=generator):
            pass
        ends.append(flat_weights(model))
    return ((ends[1] - ends[0]).norm() / (ends[0] - start).norm()).item()


def unit_of_sum(losses: Tensor) -> Tensor:
    """The batch's summed loss divided by itself."""
    loss = losses.sum()
    return loss / loss.detach()


def sum_of(losses: Tensor) -> Tensor:
    """The batch's summed loss."""
    return losses.sum()


def run(seed: int, device: str, *, epochs: int = EPOCHS) -> Measurement:
    """Errors of one gradient under each reduction, and of a training on sums against one on means, unit and raw."""
    out: Measurement = dict(errors(seed, device))
    out["training_unit"] = apart(unit, unit_of_sum, LR, seed, device, epochs)
    out["training_raw"] = apart(raw, sum_of, LR / BATCH, seed, device, epochs)  # lr by the batch size, as it is done
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """What differs by a factor must give the same; whether all else does too, decides between SUPPORTED and PARTLY."""
    worst = {name: max(scalars(measurements, name)) for name in (*CASES, "training_unit")}
    interval = {name: t_interval(scalars(measurements, name)) for name in ("unequal", "penalty", "training_raw")}
    others = ("unequal", "penalty")
    if interval["training_raw"].low <= SAME:
        verdict = Verdict.INCONCLUSIVE
    elif max(worst[name] for name in (*FACTOR_ONLY, "training_unit")) > SAME:
        verdict = Verdict.REFUTED
    elif all(worst[name] <= SAME for name in others):
        verdict = Verdict.SUPPORTED
    else:
        verdict = Verdict.PARTLY if any(interval[name].low > OTHER for name in others) else Verdict.INCONCLUSIVE
    alike = max(worst[name] for name in FACTOR_ONLY)
    reason = (
        f"Sum, mean, class-weighted sum and mean, any constant factor and the mean of equal parts' means give the same"
        f" unit gradient to {alike:.0e}; 304 steps on sums and on means end {worst['training_unit']:.0e} of the way"
        f" apart (raw, lr divided by the batch size: {interval['training_raw'].mean:.2g}, from the short last batch)."
        f" But the mean of unequal parts' means is off by {interval['unequal'].mean:.2g}, and with a penalty of"
        f" {PENALTY}·‖w‖²/2 the sum is off by {interval['penalty'].mean:.2g}."
    )
    return Judgement(verdict, reason, interval, worst)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Error of the unit gradient against that of the mean, a row for each reduction, a point for each seed."""
    figure, (axis,) = panels()
    for row, name in enumerate(CASES):
        found = [max(value, 1e-17) for value in scalars(measurements, name)]
        color = BLUE if name in FACTOR_ONLY else ORANGE
        axis.plot(found, [row] * len(found), "o", ms=4, alpha=0.7, color=color)
    axis.axvline(SAME, color=GREY, lw=0.8, ls=":")
    axis.set_yticks(range(len(CASES)), list(CASES.values()))
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="relative error of the unit gradient", xlim=(3e-18, 30))
    axis.grid(color=GREY, alpha=0.2, lw=0.5)
    return figure


CLAIM = Claim(
    name="unit_loss_reduction",
    source="000: The case for unit-normalized loss, before the second listing",
    sentence=(
        "If we divide the loss by the loss (i.e. make loss=1); regardless of how the batch is accumulated"
        " (pre-backprop) the gradients end up the same"
    ),
    threshold=(
        f"Against the unit gradient of the batch's mean. SUPPORTED if that of the sum (with and without class weights),"
        f" of factors from {FACTORS[0]:.0e} to {FACTORS[1]:.0e}, of the mean of equal and of unequal parts' means and"
        f" of the sum with a penalty agree to {SAME:.0e}, and so do weights after 304 steps on sums and on means;"
        f" PARTLY if all agree that differ by a factor, and unequal parts or the penalty are off by more than {OTHER};"
        f" REFUTED if one that differs by a factor does not agree; INCONCLUSIVE between, or if raw trainings on sums"
        f" and means end alike."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
