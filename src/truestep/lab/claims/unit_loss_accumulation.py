r"""Unit loss under accumulation: each micro-batch's loss divided by itself and by their number.

The union batch's unit gradient is :math:`\sum_i n_i \nabla L_i / \sum_i n_i L_i`; the recipe takes
:math:`\frac{1}{k} \sum_i \nabla L_i / L_i`. They agree where all micro-batches have the same size and the same loss,
which is nearly so at the start of a training only: later the recipe gives a nearly solved micro-batch the weight of a
hard one. Sums need no more memory and no more passes: accumulate the gradients of summed losses, add up the losses, and
divide once before the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import t_interval
from truestep.lab._training import Problem, digits_problem, flat_gradient, mean_loss, plain_mlp, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (64,)
LR: Final = 0.3
BATCH: Final = 64
STOPS: Final = (0, 1, 2, 4, 8, 16, 32, 64)  # epochs after which windows are looked at
WINDOWS: Final = 40  # at each stop

CLOSE: Final = 0.05  # the largest median error, relative to the union batch's gradient, that counts as the same
EXACT: Final = 1e-9  # of the sums, in float64


class Split(NamedTuple):
    """How a window is cut."""

    label: str
    sizes: tuple[int, ...]


SPLITS: Final = {
    "four": Split("4 × 16", (16,) * 4),
    "sixteen": Split("16 × 4", (4,) * 16),
    "ragged": Split("1 + 5 + 28 + 30", (1, 5, 28, 30)),
}


class Window(NamedTuple):
    """The gradient of one window in four ways."""

    union: Float64[Tensor, " parameters"]  # ∇ log of the union's mean loss
    recipe: Float64[Tensor, " parameters"]  # source 000's, micro-batch by micro-batch
    sums: Float64[Tensor, " parameters"]  # sum of gradients over sum of losses


def window(model: nn.Module, problem: Problem, index: Tensor, sizes: tuple[int, ...]) -> Window:
    """Gradients of one window of samples, cut into micro-batches of these sizes."""
    model.zero_grad()
    for part in index.split(list(sizes)):
        loss = problem.loss(model(problem.x[part]), problem.y[part]).mean()
        (loss / loss.item() / len(sizes)).backward()  # the source's line
    recipe = flat_gradient(model)
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64, device=problem.x.device)
    for part in index.split(list(sizes)):
        loss = problem.loss(model(problem.x[part]), problem.y[part]).sum()
        loss.backward()
        total += loss.detach()
    sums = flat_gradient(model) / total
    model.zero_grad()
    problem.loss(model(problem.x[index]), problem.y[index]).mean().log().backward()
    return Window(flat_gradient(model), recipe, sums)


def look(model: nn.Module, problem: Problem, sizes: tuple[int, ...], generator: torch.Generator) -> dict[str, float]:
    """Medians over windows: the recipe's error and cosine to the union, its norm over the union's; the sums' worst."""
    rows: list[Tensor] = []
    for _ in range(WINDOWS):
        index = torch.randint(len(problem.x), (sum(sizes),), generator=generator)
        union, recipe, sums = window(model, problem, index, sizes)
        norm = union.norm()
        rows.append(
            torch.stack(
                [
                    (recipe - union).norm() / norm,
                    (recipe @ union) / norm / recipe.norm(),
                    recipe.norm() / norm,
                    (sums - union).norm() / norm,
                ]
            )
        )
    table = torch.stack(rows)  # [windows, 4]
    error, alignment, ratio, _ = table.median(0).values.tolist()
    return {"error": error, "cosine": alignment, "ratio": ratio, "sums": table[:, 3].max().item()}


def run(seed: int, device: str, *, stops: Sequence[int] = STOPS) -> Measurement:
    """Train on the digits without accumulation, and at each stop look at windows cut in three ways."""
    generator = torch.Generator().manual_seed(seed)
    problem, _ = digits_problem(device, torch.float64)
    model = plain_mlp(WIDTHS, generator, device, torch.float64)
    training = train(model, problem, torch.mean, lr=LR, batch_size=BATCH, epochs=stops[-1], generator=generator)
    per_epoch = -(-len(problem.x) // BATCH)  # steps
    taken = 0
    seen: dict[str, list[float]] = {"loss": []}
    for stop in stops:
        for _ in islice(training, stop * per_epoch - taken):
            taken += 1
        seen["loss"].append(mean_loss(model, problem))
        for name, split in SPLITS.items():
            for key, value in look(model, problem, split.sizes, generator).items():
                seen.setdefault(f"{name}_{key}", []).append(value)
    out: Measurement = dict(seen)
    for name in SPLITS:
        out[f"{name}_start"] = seen[f"{name}_error"][0]
        out[f"{name}_worst"] = max(seen[f"{name}_error"])
        out[f"{name}_end"] = seen[f"{name}_error"][-1]
        out[f"{name}_least_cosine"] = min(seen[f"{name}_cosine"])
    out["sums"] = max(max(seen[f"{name}_sums"]) for name in SPLITS)
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """All sizes and the whole training are SUPPORTED; one cut into equal sizes before the first step is PARTLY."""
    names = [name for name, value in measurements[0].items() if not isinstance(value, list) and name != "sums"]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    sums = max(scalars(measurements, "sums"))
    starts = interval["four_start"], interval["sixteen_start"]
    if sums > EXACT:
        verdict = Verdict.INCONCLUSIVE
    elif max(interval[f"{name}_worst"].high for name in SPLITS) <= CLOSE:
        verdict = Verdict.SUPPORTED
    elif min(start.high for start in starts) <= CLOSE:
        verdict = Verdict.PARTLY
    else:
        refuted = min(start.low for start in starts) > CLOSE
        verdict = Verdict.REFUTED if refuted else Verdict.INCONCLUSIVE
    percent = {name: f"{float(f'{100 * i.mean:.2g}'):g} %" for name, i in interval.items()}
    final = sum(losses[-1] for losses in curves(measurements, "loss")) / len(measurements)
    reason = (
        f"Against the unit loss of the union batch the recipe's gradient is off by {percent['four_start']} (median)"
        f" with 4 × 16 samples at the start, but by {percent['four_end']} at a training loss of {final:.2g}, with"
        f" 16 × 4 by {percent['sixteen_end']} (least median cosine {interval['sixteen_least_cosine'].mean:.2f}), and"
        f" with ragged sizes by {percent['ragged_start']} from the start. Sum of gradients over sum of losses:"
        f" {sums:.0e}."
    )
    return Judgement(verdict, reason, interval, {"sums": sums})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """The recipe's error and cosine against the training loss: a line for each seed, a colour for each split."""
    figure, (left, right) = panels(2)
    for color, (name, split) in zip((BLUE, ORANGE, GREEN), SPLITS.items(), strict=True):
        for i, losses in enumerate(curves(measurements, "loss")):
            label = split.label if i == 0 else None
            style = {"color": color, "lw": 0.8, "ms": 3, "alpha": 0.7, "label": label}
            left.plot(losses, curves(measurements, f"{name}_error")[i], "o-", **style)
            right.plot(losses, curves(measurements, f"{name}_cosine")[i], "o-", **style)
    left.axhline(CLOSE, color=GREY, lw=0.8, ls=":", label=f"threshold {CLOSE}")
    left.set(yscale="log", ylabel="median error / ‖∇ of the union‖")
    right.set(ylabel="median cosine to ∇ of the union")
    for axis in (left, right):
        axis.set(xscale="log", xlabel="training loss, nats (the training runs to the right)")
        axis.invert_xaxis()
        axis.grid(color=GREY, alpha=0.2, lw=0.5)
        axis.legend(title="window, samples", title_fontsize=8)
    return figure


CLAIM = Claim(
    name="unit_loss_accumulation",
    source="000: The case for unit-normalized loss, the note on batch accumulation",
    sentence=(
        "if you are doing batch accumulation you still need to divide by the amount you accumulate:"
        " (loss/loss.item()/grad_accum).backward()"
    ),
    threshold=(
        f"Against the unit loss of the union batch, medians of {WINDOWS} windows of 64 digits. SUPPORTED if the"
        f" recipe's error is at most {100 * CLOSE:.0f} % (interval's end) with 4 × 16, 16 × 4 and ragged micro-batches"
        f" throughout a training; PARTLY if with one of the equal ones before the first step, but not throughout;"
        f" REFUTED if with neither; INCONCLUSIVE if that crosses the bound, or if sum of gradients over sum of losses"
        f" is off by more than {EXACT:.0e}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
