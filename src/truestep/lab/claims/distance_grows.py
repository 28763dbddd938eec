r"""The distance between the weights of one run grows with the gap in time, long after an OU process has stopped.

An Ornstein-Uhlenbeck process around a minimiser gives
:math:`E\|W_T - W_{T+\Delta}\|^2 = 2 tr \Sigma (1 - e^{-\Delta / \tau})` if all its directions relax at one rate: it
grows too, so that growth alone refutes nothing. What tells them apart is that it stops. We let nets come to rest, fit
the formula to gaps of up to four time scales 1 / (lr · decay), and look at gaps of up to 32. A process with many rates,
some as slow as the run, could go on growing; it is not refuted here.

The contrast is such a process, simulated with the fitted rate and seen through the same gaps: it must stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float
from torch import Tensor

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import digits
from truestep.lab._ensemble import column, draw_batches, draw_ensemble, sgd_step
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (32, 32)
BATCH: Final = 32
NETS: Final = 8  # of a seed, each with a start and batches of its own
LR: Final = 0.5
WEIGHT_DECAY: Final = 0.02  # 100 steps a time scale
TIME_SCALE: Final = 100  # steps
REST: Final = 5  # time scales before the first snapshot
LENGTH: Final = 48  # time scales after it
PER: Final = 2  # snapshots a time scale
GAPS: Final = (1, 2, 4, 8, 16, 32, 64)  # snapshots: half a time scale to 32, each twice the one before
FITTED: Final = 4  # so many of them give the OU process its two numbers
OU_SIZE: Final = 500  # coordinates of the simulated one

STOPPED: Final = 0.02  # growth of the squared distance over the last doubling that counts as none


def snapshots(seed: int, device: str, time_scale: int) -> Float[Tensor, "times nets weights"]:
    """All trained weights of each net as one vector, every half time scale after the nets came to rest."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device)
    nets = draw_ensemble(NETS, WIDTHS, generator, device=device)
    lr, decay = column(LR, nets), column(WEIGHT_DECAY, nets)
    found: list[Tensor] = []
    for step in range((REST + LENGTH) * time_scale + 1):
        if step >= REST * time_scale and (step - REST * time_scale) % (time_scale // PER) == 0:
            found.append(torch.cat([w.detach().flatten(1) for w in nets.hidden], 1).clone())
        sgd_step(nets, *draw_batches(data, NETS, BATCH, generator), lr, decay)
    return torch.stack(found)


def squared_distances(w: Float[Tensor, "times nets weights"]) -> Float[Tensor, "gaps starts nets"]:
    """‖W_T - W_{T+Δ}‖² for each gap, every T that all gaps fit behind, and each net.

    Example:
        >>> squared_distances(torch.arange(66.0).view(66, 1, 1))[:, :, 0].sqrt()[:, 0]
        tensor([ 1.,  2.,  4.,  8., 16., 32., 64.])
    """
    starts = len(w) - GAPS[-1]
    return torch.stack([((w[gap : gap + starts] - w[:starts]) ** 2).sum(-1) for gap in GAPS])


def fit(means: Sequence[float]) -> tuple[float, float]:
    """Level and relaxation time (in snapshots) of the OU process nearest, in logarithms, to the first gaps' means.

    Example:
        >>> level, time = fit([3 * (1 - exp(-gap / 5)) for gap in GAPS])
        >>> round(level, 1), round(time, 1)
        (3.0, 5.0)
    """
    best = (float("inf"), 0.0, 0.0)
    for i in range(400):
        time = 0.2 * exp(i * log(1000) / 400)  # 0.2 to 200
        shape = [log(1 - exp(-gap / time)) for gap in GAPS[:FITTED]]
        left = [log(mean) - value for mean, value in zip(means, shape, strict=False)]
        level = sum(left) / FITTED
        best = min(best, (sum((value - level) ** 2 for value in left), level, time))
    return exp(best[1]), best[2]


def simulated(time: float, count: int, generator: torch.Generator) -> Float[Tensor, "times nets weights"]:
    """A stationary OU process of variance 1 / 2 in each coordinate, seen once a snapshot."""
    keep = exp(-1 / time)
    noise = torch.randn(count, NETS, OU_SIZE, generator=generator, dtype=torch.float64) / 2**0.5
    out = [noise[0]]
    for fresh in noise[1:]:
        out.append(keep * out[-1] + (1 - keep**2) ** 0.5 * fresh)
    return torch.stack(out)


def run(seed: int, device: str, *, time_scale: int = TIME_SCALE) -> Measurement:
    """Mean squared distance at each gap, the share of (T, net) in which it always grows, and the same of OU."""
    w = snapshots(seed, device, time_scale)
    squared = squared_distances(w).double()
    means = squared.mean((1, 2)).tolist()
    level, time = fit(means)
    grows = (squared.diff(dim=0) > 0).all(0).double().mean().item()
    ou = squared_distances(simulated(time, len(w), torch.Generator().manual_seed(seed))).mean((1, 2)).tolist()
    return {
        "squared": means,
        "grows": grows,
        "size": (w.double() ** 2).sum(-1).mean().item(),
        "time": time / PER,
        "predicted": [level * (1 - exp(-gap / time)) for gap in GAPS],
        "beyond": means[-1] / (level * (1 - exp(-GAPS[-1] / time))),
        "last": log(means[-1] / means[-2]),
        "ou_last": log(ou[-1] / ou[-2]),
    }


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Growth at each doubling of the gap in the mean, in each single T and net, and of the simulated OU process."""
    squared = curves(measurements, "squared")
    growth = [t_interval([log(after[i] / after[i - 1]) for after in squared]) for i in range(1, len(GAPS))]
    last, ou = growth[-1], t_interval(scalars(measurements, "ou_last"))
    share = t_interval(scalars(measurements, "grows"))
    beyond = t_interval(scalars(measurements, "beyond"))
    if ou.high > STOPPED:
        verdict = Verdict.INCONCLUSIVE
    elif last.high < STOPPED:
        verdict = Verdict.REFUTED
    elif last.low > STOPPED and all(found.low > 0 for found in growth):
        verdict = Verdict.SUPPORTED if min(scalars(measurements, "grows")) == 1 else Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    longest = GAPS[-1] / PER
    limit = t_interval([s[-1] / (2 * n) for s, n in zip(squared, scalars(measurements, "size"), strict=True)]).mean
    reason = (
        f"In the mean over T the squared distance grows at every doubling of the gap from {GAPS[0] / PER:g} to"
        f" {longest:g} time scales ({', '.join(f'{100 * (exp(g.mean) - 1):.0f} %' for g in growth)}); it grows all the"
        f" way in {100 * share.mean:.0f} % of single runs and times T. The OU process fitted to gaps of up to"
        f" {GAPS[FITTED - 1] / PER:g} relaxes in {t_interval(scalars(measurements, 'time')).mean:.1f}; at {longest:g}"
        f" the distance² is {beyond.mean:.2f} times its constant, and {limit:.2f} of what unrelated weights would have."
    )
    if any(found.low <= 0 for found in growth):
        reason = reason.replace("grows at every doubling", "changes at each doubling")
    names = [f"growth_{GAPS[i] / PER:g}" for i in range(1, len(GAPS))]
    intervals = dict(zip(names, growth, strict=True)) | {"ou_last": ou, "grows": share, "beyond": beyond}
    return Judgement(verdict, reason, intervals)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Squared distance against the gap, a line per seed, beside the OU process fitted to its first part."""
    figure, (axis,) = panels()
    gaps = [gap / PER for gap in GAPS]
    for i, (found, ou) in enumerate(
        zip(curves(measurements, "squared"), curves(measurements, "predicted"), strict=True)
    ):
        axis.plot(gaps, found, ".-", color=BLUE, lw=0.8, alpha=0.6, label="measured" if i == 0 else None)
        axis.plot(
            gaps, ou, "--", color=ORANGE, lw=0.8, alpha=0.6, label="OU fitted left of the line" if i == 0 else None
        )
    axis.axvline(gaps[FITTED - 1], color=GREY, lw=0.8, ls=":")
    axis.set_xscale("log", base=2)
    axis.set(xlabel="gap Δ, in time scales 1 / (lr · decay)", ylabel="mean of ‖W_T - W_{T+Δ}‖²", ylim=(0, None))
    axis.legend()
    return figure


CLAIM = Claim(
    name="distance_grows",
    source="004: Li and Arora, blog post on normalized nets and the intrinsic LR (2020), “(Against Wisdom 3)”",
    sentence=(
        "we can show ℓ₂ distance between weights from epochs T and T+Δ monotonically increases with Δ for every T (See"
        " Figure 3), while E[|W_T - W_{T+Δ}|²] should converge to the constant 2Tr[Σ] as T, Δ → +∞ in the OU process."
    ),
    threshold=(
        f"Squared distance at gaps of {GAPS[0] / PER:g} to {GAPS[-1] / PER:g} time scales 1/(lr · decay), each twice"
        f" the one before. SUPPORTED if it grows at every doubling for every single run and T, and in the mean the last"
        f" doubling adds more than {100 * STOPPED:.0f} % (95 % interval of the logarithm); PARTLY if so in the mean,"
        f" the interval of each doubling above 0, but not in every run and T; REFUTED if the last doubling adds less"
        f" than {100 * STOPPED:.0f} %; INCONCLUSIVE otherwise, or if a simulated OU process grows by that much too."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=8,
)
