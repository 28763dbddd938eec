r"""Bad samples have an outsized effect because of their higher loss.

Digits with a fifth of the labels wrong. The share of the gradient is :math:`\sum_{bad} \|g_i\| / \sum_i \|g_i\|`, with
:math:`g_i` the gradient of sample i over all weights; that of the loss is the same with :math:`l_i`. Dividing by the
batch's loss multiplies all samples of a batch by one number, so it cannot change their shares in it: it only moves
weight between batches. Dividing each sample by its own loss does change them. Shares are taken along one training on
the raw loss, with the weights that each rule would give at that point; accuracies from trainings of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap  # pyright: ignore[reportPrivateImportUsage]

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import CLASSES
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PINK, SKY, panels
from truestep.lab._interval import t_interval
from truestep.lab._training import (
    Problem,
    Scale,
    batches,
    cosine,
    digits_problem,
    finite_accuracy,
    per_sample,
    plain_mlp,
    raw,
    train,
    unit,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (64,)
BAD: Final = 0.2  # of the labels
BATCH: Final = 64
EPOCHS: Final = 30
TRACKED_LR: Final = 0.3  # of the training along which the shares are taken
LRS: Final = (0.01, 0.03, 0.1, 0.3, 1.0)
FLOOR: Final = 0.1  # nats, of the per-sample rule

OUTSIZED: Final = 1.5  # peak share of the gradient over the share of the samples
GAIN: Final = 0.01  # of test accuracy, what counts as a remedy

RULES: Final[dict[str, Scale]] = {
    "raw": raw,
    "unit": unit,
    "per_sample": partial(per_sample, floor=FLOOR),
    "bare": per_sample,
}
WEIGHED: Final = ("raw", "unit", "per_sample")  # the rules whose shares are taken


class Spoilt(NamedTuple):
    """A problem, and which of its samples have a wrong label."""

    problem: Problem
    bad: Bool[Tensor, " samples"]


def spoil(seed: int, device: str) -> Spoilt:
    """The training digits with every fifth label replaced by another class, in random places."""
    generator = torch.Generator().manual_seed(1000 + seed)
    problem, _ = digits_problem(device)
    count = len(problem.y)
    bad = torch.zeros(count, dtype=torch.bool)
    bad[torch.randperm(count, generator=generator)[: round(BAD * count)]] = True
    shift = torch.randint(1, CLASSES, (count,), generator=generator)  # never the label itself
    bad, shift = bad.to(device), shift.to(device)
    return Spoilt(problem._replace(y=torch.where(bad, (problem.y + shift) % CLASSES, problem.y)), bad)


def sample_norms(model: nn.Module, problem: Problem) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Loss, and norm of the gradient over all weights, of each sample."""
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        value = problem.loss(functional_call(model, weights, (x[None],)), y[None])[0]
        return value, value

    gradients, values = vmap(grad(loss, has_aux=True), (None, 0, 0))(weights, problem.x, problem.y)
    squares = [g.flatten(1).double().square().sum(1) for g in gradients.values()]
    return values.double(), torch.stack(squares).sum(0).sqrt()


def shares(model: nn.Module, spoilt: Spoilt, generator: torch.Generator) -> dict[str, float]:
    """What the bad samples hold of the loss, and of an epoch's gradients under each rule."""
    losses, norms = sample_norms(model, spoilt.problem)
    divisor = torch.empty_like(losses)  # each batch's loss, for its samples
    for index in batches(len(losses), BATCH, generator):
        divisor[index] = losses[index].mean()
    held = {"loss": losses, "raw": norms, "unit": norms / divisor, "per_sample": norms / (losses + FLOOR)}
    return {name: (values[spoilt.bad].sum() / values.sum()).item() for name, values in held.items()}


def track(seed: int, device: str, epochs: int) -> dict[str, list[float]]:
    """Shares of the bad samples before each epoch of a training on the raw loss, and at its end."""
    spoilt = spoil(seed, device)
    generator = torch.Generator().manual_seed(seed)
    model = plain_mlp(WIDTHS, generator, device)
    out = {name: [share] for name, share in shares(model, spoilt, generator).items()}
    last = -(-len(spoilt.bad) // BATCH) - 1  # the last step of an epoch
    training = train(model, spoilt.problem, raw, lr=TRACKED_LR, batch_size=BATCH, epochs=epochs, generator=generator)
    for step, _ in enumerate(training):
        if step % (last + 1) == last:
            for name, share in shares(model, spoilt, generator).items():
                out[name].append(share)
    return out


def best_accuracy(rule: Scale, seed: int, device: str, epochs: int) -> float:
    """Test accuracy, on right labels, at the best lr, with a cosine schedule."""
    _, data = digits_problem(device)
    problem = spoil(seed, device).problem
    found: list[float] = []
    for lr in LRS:
        generator = torch.Generator().manual_seed(seed)
        model = plain_mlp(WIDTHS, generator, device)
        for _ in train(
            model, problem, rule, lr=lr, schedule=cosine, batch_size=BATCH, epochs=epochs, generator=generator
        ):
            pass
        found.append(finite_accuracy(model, data))
    return max(found)


def run(seed: int, device: str, *, epochs: int = EPOCHS) -> Measurement:
    """Shares along a training, their peak over the share of the samples, and the best accuracy under each rule."""
    held = track(seed, device, epochs)
    peak = max(range(len(held["raw"])), key=held["raw"].__getitem__)
    out: Measurement = {f"{name}_share": values for name, values in held.items()}
    for name, values in held.items():
        out[f"{name}_outsized"] = values[peak] / BAD  # all at the raw gradient's peak
    for name, rule in RULES.items():
        out[f"{name}_accuracy"] = best_accuracy(rule, seed, device, epochs)
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Outsized or not; if so, whether unit loss, for which the source argues, is a remedy."""
    names = [name for name, value in measurements[0].items() if not isinstance(value, list)]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    pairs = zip(scalars(measurements, "unit_accuracy"), scalars(measurements, "raw_accuracy"), strict=True)
    gain = t_interval([unit - raw for unit, raw in pairs])
    effect = interval["raw_outsized"]
    if effect.high < OUTSIZED:
        verdict = Verdict.REFUTED
    elif effect.low < OUTSIZED:
        verdict = Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.SUPPORTED if gain.low >= GAIN else Verdict.PARTLY
        if gain.low < GAIN <= gain.high:
            verdict = Verdict.INCONCLUSIVE
    percent = {name: f"{100 * BAD * interval[f'{name}_outsized'].mean:.0f} %" for name in ("loss", *WEIGHED)}
    accuracy = {name: f"{100 * interval[f'{name}_accuracy'].mean:.1f} %" for name in RULES}
    reason = (
        f"{100 * BAD:.0f} % wrong labels hold up to {percent['raw']} of the gradient and {percent['loss']} of the loss"
        f" then. The batch's unit loss leaves {percent['unit']}: within a batch it changes no share. Per sample (floor"
        f" {FLOOR} nats) leaves {percent['per_sample']}. Best test accuracy: raw {accuracy['raw']}, unit"
        f" {accuracy['unit']}, per-sample {accuracy['per_sample']}, per-sample without the floor {accuracy['bare']}."
    )
    return Judgement(verdict, reason, interval | {"unit_gain": gain})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Shares of the bad samples along the training; best test accuracy under each rule."""
    figure, (left, right) = panels(2)
    labels = {
        "loss": "of the loss",
        "raw": "of the gradient, raw",
        "unit": "of the gradient, unit",
        "per_sample": f"of the gradient, per-sample, floor {FLOOR}",
    }
    for color, (name, label) in zip((PINK, BLUE, ORANGE, GREEN), labels.items(), strict=True):
        for i, values in enumerate(curves(measurements, f"{name}_share")):
            style = {"color": color, "lw": 0.9, "alpha": 0.7, "label": label if i == 0 else None}
            left.plot(range(len(values)), [100 * v for v in values], "--" if name == "unit" else "-", **style)
    left.axhline(100 * BAD, color=GREY, lw=0.8, ls=":", label="of the samples")
    left.set(xlabel="epoch of the raw training", ylabel="share of the wrong labels, %", ylim=(0, 100))
    for i, (name, color) in enumerate(zip(RULES, (BLUE, ORANGE, GREEN, SKY), strict=True)):
        found = scalars(measurements, f"{name}_accuracy")
        right.plot([i] * len(found), [100 * v for v in found], "o", ms=4, alpha=0.7, color=color)
    right.set_xticks(range(len(RULES)), ["raw", "unit", f"per-sample,\nfloor {FLOOR}", "per-sample"])
    right.set(ylabel="test accuracy at the best lr, %", xlim=(-0.5, 3.5))
    left.legend(fontsize=7)
    for axis in (left, right):
        axis.grid(color=GREY, alpha=0.2, lw=0.5)
    return figure


CLAIM = Claim(
    name="bad_samples",
    source="000: The case for unit-normalized loss, section “But why?”",
    sentence="the outsized effect of 'bad' samples in the dataset due to the higher loss value",
    threshold=(
        f"{100 * BAD:.0f} % wrong labels; outsized is a share of the gradient of {OUTSIZED} times that, at its peak"
        f" along a raw training. SUPPORTED if it is, and unit loss's best test accuracy over {len(LRS)} lrs is {GAIN}"
        f" higher than raw's (the source offers it as the remedy); PARTLY if it is, and such a gain is excluded;"
        f" REFUTED if it is not; INCONCLUSIVE between."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
