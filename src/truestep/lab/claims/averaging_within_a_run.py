r"""The average of two weights of one run has a lower loss than either; that of two runs from different starts has not.

Three nets under one fixed output layer, at a constant lr and decay: a run, its twin of the same start on other batches,
and a run of another start. Pairs of their snapshots are averaged by torch's `AveragedModel`; averaged or not, batch
norm is refreshed by `update_bn` on all training images. The runs are ten times as long as they need to come to rest,
since the source says that averaging goes on to work there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, update_bn

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import Digits, digits
from truestep.lab._ensemble import as_module, column, draw_batches, draw_ensemble, sgd_step
from truestep.lab._figure import GREY, PALETTE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (32, 32)
BATCH: Final = 32
LR: Final = 0.5
WEIGHT_DECAY: Final = 0.01  # 200 steps a time scale
EVERY: Final = 250  # steps from one snapshot to the next
FIRST: Final = 2  # the snapshot at which the loss has come to rest: 500 steps
SNAPSHOTS: Final = 21  # so the last is at 5000 steps, ten times that
RUN, TWIN, OTHER = 0, 1, 2  # the nets

PAIRS: Final = {
    "near": "one run, 250 steps apart, early",
    "late": "one run, 250 steps apart, late",
    "far": "one run, 2500 steps apart",
    "twin": "same start, other batches",
    "across": "other start",
}


class Score(NamedTuple):
    """Of the test images: mean cross-entropy in nats, and the share got right."""

    loss: float
    accuracy: float


def pairs(kind: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Which (net, snapshot) are averaged with which.

    Example:
        >>> pairs("near")[0]
        ((0, 2), (0, 3))
    """
    last, half = SNAPSHOTS - 1, (SNAPSHOTS - 1) // 2
    if kind in ("near", "late"):
        begin = FIRST if kind == "near" else last - 6
        return [((RUN, i), (RUN, i + 1)) for i in range(begin, begin + 6, 2)]
    if kind == "far":
        return [((RUN, i), (RUN, i + half)) for i in range(FIRST, half + 1, 2)]
    partner = TWIN if kind == "twin" else OTHER
    return [((RUN, i), (partner, i)) for i in range(FIRST, last + 1, 3)]


@torch.no_grad()
def score(models: Sequence[nn.Module], data: Digits) -> Score:
    """How the average of the weights does, batch norm refreshed; one model is its own average."""
    averaged = AveragedModel(models[0])
    for model in models:
        averaged.update_parameters(model)
    update_bn([data.train_x], averaged)
    averaged.eval()
    logits = averaged(data.test_x)
    right = (logits.argmax(1) == data.test_y).double().mean().item()
    return Score(cross_entropy(logits, data.test_y).item(), right)


def train(seed: int, data: Digits, every: int) -> list[list[nn.Sequential]]:
    """Snapshots of the three runs: snapshots[net][i] after (i + 1) · every steps, the last index less one."""
    generator = torch.Generator().manual_seed(seed)
    nets = draw_ensemble(3, WIDTHS, generator, device=str(data.train_x.device))
    nets.head.copy_(nets.head[:1].expand_as(nets.head))
    with torch.no_grad():
        for w in nets.hidden:
            w[TWIN] = w[RUN]
    lr, decay = column(LR, nets), column(WEIGHT_DECAY, nets)
    snapshots: list[list[nn.Sequential]] = [[], [], []]
    for step in range((SNAPSHOTS - 1) * every + 1):
        if step % every == 0:
            for i, kept in enumerate(snapshots):
                kept.append(as_module(nets, i))
        sgd_step(nets, *draw_batches(data, 3, BATCH, generator), lr, decay)
    return snapshots


def run(seed: int, device: str, *, every: int = EVERY) -> Measurement:
    """For each kind of pair, the mean of: loss of the average less the lower, accuracy less the higher of the two."""
    data = digits(device)
    snapshots = train(seed, data, every)
    single = [[score([model], data) for model in kept] for kept in snapshots]
    out: Measurement = {"single_loss": [s.loss for s in single[RUN]]}
    for kind in PAIRS:
        losses: list[float] = []
        gains: list[float] = []
        for (a, i), (b, j) in pairs(kind):
            both = score([snapshots[a][i], snapshots[b][j]], data)
            losses.append(both.loss - min(single[a][i].loss, single[b][j].loss))
            gains.append(both.accuracy - max(single[a][i].accuracy, single[b][j].accuracy))
        out |= {f"{kind}_loss": sum(losses) / len(losses), f"{kind}_accuracy": sum(gains) / len(gains)}
        out[f"{kind}_better"] = sum(loss < 0 for loss in losses) / len(losses)
    rest = single[RUN][FIRST:]
    whole = score(snapshots[RUN][FIRST:], data)
    out |= {"all_loss": whole.loss, "all_accuracy": whole.accuracy}
    out["mean_loss"] = sum(s.loss for s in rest) / len(rest)
    out["mean_accuracy"] = sum(s.accuracy for s in rest) / len(rest)
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Within a run the average must be better than the better of the two, across starts it must not."""
    loss = {kind: t_interval(scalars(measurements, f"{kind}_loss")) for kind in PAIRS}
    gain = {kind: t_interval(scalars(measurements, f"{kind}_accuracy")) for kind in PAIRS}
    better = {kind: t_interval(scalars(measurements, f"{kind}_better")).mean for kind in PAIRS}
    within = [loss[kind] for kind in ("near", "late", "far")]
    if loss["across"].high < 0 or all(found.low > 0 for found in within):
        verdict = Verdict.REFUTED
    elif gain["across"].high < 0 < loss["across"].low and all(found.high < 0 for found in within):
        verdict = Verdict.SUPPORTED
    elif loss["across"].low > 0 and any(found.high < 0 for found in within):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    row = "; ".join(
        f"{label}: {loss[kind].mean:+.3f} nats, {100 * gain[kind].mean:+.1f} points, better in"
        f" {100 * better[kind]:.0f} %"
        for kind, label in PAIRS.items()
    )
    mean = {name: t_interval(scalars(measurements, name)).mean for name in ("all_loss", "mean_loss", "all_accuracy")}
    reason = (
        f"The average of two against the better of the two, test loss and accuracy. {row}. The average of all"
        f" {SNAPSHOTS - FIRST} snapshots has loss {mean['all_loss']:.3f}, one has {mean['mean_loss']:.3f}."
    )
    intervals = {f"{kind}_loss": loss[kind] for kind in PAIRS} | {f"{kind}_accuracy": gain[kind] for kind in PAIRS}
    return Judgement(verdict, reason, intervals, mean)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Left what averaging two does to the loss, by kind; right the loss of one run's snapshots and of their average."""
    figure, (left, right) = panels(2)
    for i, kind in enumerate(PAIRS):
        values = scalars(measurements, f"{kind}_loss")
        left.plot(values, [i] * len(values), "o", color=PALETTE[i], alpha=0.6)
    left.axvline(0, color=GREY, lw=0.8, ls=":")
    left.set_yticks(range(len(PAIRS)), list(PAIRS.values()))
    left.invert_yaxis()
    left.set_xlabel("loss of the average less the lower of the two, nats")
    left.set_xscale("symlog", linthresh=0.1)
    for i, found in enumerate(curves(measurements, "single_loss")):
        steps = [EVERY * (FIRST + k) for k in range(len(found) - FIRST)]
        right.plot(steps, found[FIRST:], color=GREY, lw=0.7, label="snapshots" if i == 0 else None)
    whole = scalars(measurements, "all_loss")
    right.plot([SNAPSHOTS * EVERY] * len(whole), whole, "o", color=PALETTE[0], alpha=0.6, label="average of all")
    right.set(xlabel="step", ylabel="test loss, nats")
    right.legend()
    return figure


CLAIM = Claim(
    name="averaging_within_a_run",
    source="004: Li and Arora, blog post on normalized nets and the intrinsic LR (2020), “(Against Wisdom 3)”",
    sentence=(
        "Along the trajectory of SGD, if the network parameters from two different epochs are averaged, then the"
        " average has test loss lower than either. Improvement via averaging continues to work for run times 10X longer"
        " than usual as shown in Figure 3. However, the accuracy improvement doesn’t happen for SWA between two"
        " solutions obtained from different initialization."
    ),
    threshold=(
        "Loss of the average of two less the lower of the two losses, test images, BN refreshed. SUPPORTED if the 95 %"
        " interval of its mean lies below 0 within a run, early, late (up to ten times as long) and for epochs far"
        " apart, and above 0 across starts, where the accuracy falls below the better one's too; PARTLY if above 0"
        " across starts and below 0 for some of the three within; REFUTED if below 0 across, or above 0 for all three"
        " within; INCONCLUSIVE otherwise."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=8,
)
