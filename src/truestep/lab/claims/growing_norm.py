r"""The norm of a scale-invariant weight grows monotonically without weight decay.

The lecture shows it for plain SGD, where the gradient is orthogonal to the weight:
:math:`\|w'\|^2 = \|w\|^2 + \|d\|^2`. For any step :math:`\|w'\|^2 = \|w\|^2 + 2 \langle w, d \rangle + \|d\|^2`, so all
hangs on the sign of :math:`\langle w, d \rangle`. Heavy-ball momentum at a fixed lr has, from the same orthogonality
and by induction, :math:`\langle w_k, d_k \rangle = \sum_{j \ge 1} \mu^j \|d_{k-j}\|^2 \ge 0`: it grows faster than
Pythagoras says. Nesterov and Adam have no such law, and Adam's step is not tangential: the smaller its lr, the more
often the norm falls (one seed: 7 % at 1e-2, 41 % at 1e-3, 62 % at 1e-4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from truestep.core import Gram
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import descend, digits, hidden_weights, mlp
from truestep.lab._figure import GREY, PALETTE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (32, 32)
BATCH: Final = 32
STEPS: Final = 1000
MOMENTUM: Final = 0.9
POINTS: Final = 60  # of a curve

IDENTITY: Final = 1e-12  # largest error of an identity, relative to ‖w‖², that counts as round-off
ROUND_OFF: Final = 1e-14  # a fall of ‖w‖² by less than this share is none


class Arm(NamedTuple):
    """One way to train: what it is called, the optimizer, the number format, the norm's eps."""

    label: str
    optimizer: Callable[[list[Tensor]], Optimizer]
    dtype: torch.dtype = torch.float64
    eps: float = 1e-30


ARMS: Final = {
    "sgd": Arm("SGD", partial(SGD, lr=0.3)),
    "momentum": Arm("SGD, momentum .9", partial(SGD, lr=0.03, momentum=MOMENTUM)),
    "nesterov": Arm("SGD, Nesterov .9", partial(SGD, lr=0.03, momentum=MOMENTUM, nesterov=True)),
    "adam": Arm("Adam", partial(Adam, lr=1e-3)),
    "sgd_default": Arm("SGD, float32, eps 1e-5", partial(SGD, lr=0.3), torch.float32, 1e-5),
    "sgd_decay": Arm("SGD, weight decay 3e-3", partial(SGD, lr=0.3, weight_decay=3e-3)),
}
WITHOUT_DECAY: Final = ("sgd", "momentum", "nesterov", "adam")


def train(arm: Arm, seed: int, device: str, steps: int) -> Iterator[Gram]:
    """Train a BN MLP under a fixed head, and give every step's Gram of all hidden units."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device, arm.dtype)
    norm = partial(nn.BatchNorm1d, eps=arm.eps, affine=False)
    model = mlp(WIDTHS, norm, generator, device=device, dtype=arm.dtype)
    optimizer = arm.optimizer(list(hidden_weights(model).values()))
    for grams in descend(model, optimizer, data, batch_size=BATCH, steps=steps, generator=generator):
        yield Gram.from_columns(torch.cat([g.columns() for g in grams.values()]))  # [units, 6]


def follow(arm: Arm, seed: int, device: str, steps: int) -> dict[str, Tensor]:
    """Squared norms [steps, units], and what is left of the two identities."""
    rows = torch.stack([g.columns() for g in train(arm, seed, device, steps)])  # [steps, units, 6]
    g = Gram.from_columns(rows)
    growth = g.ww[1:] - g.ww[:-1]  # [steps - 1, units]
    memory = torch.zeros_like(g.wd)  # sum over j of mu^j ‖d_{k-j}‖²
    for k in range(1, len(memory)):
        memory[k] = MOMENTUM * (memory[k - 1] + g.dd[k - 1])
    return {
        "norm": g.ww,
        "falls": growth < -ROUND_OFF * g.ww[:-1],
        "pythagoras": (growth - g.dd[:-1]).abs() / g.ww[:-1],
        "memory": (g.wd - memory).abs() / g.ww,
    }


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """For each arm: share of (step, unit) with a falling norm, error of Pythagoras, the mean ‖w‖² as a curve."""
    shown = torch.linspace(0, steps - 1, min(POINTS, steps)).long()
    out: Measurement = {"step": shown.double().tolist()}
    for name, arm in ARMS.items():
        trace = follow(arm, seed, device, steps)
        out[f"{name}_falls"] = trace["falls"].double().mean().item()
        out[f"{name}_pythagoras"] = trace["pythagoras"].max().item()
        out[f"{name}_norm"] = trace["norm"].mean(1)[shown].tolist()
        if name == "momentum":
            out["momentum_memory"] = trace["memory"].max().item()
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Count the falls of the norm; no decay means none may be seen, decay means some must be."""
    falls = {name: max(scalars(measurements, f"{name}_falls")) for name in ARMS}
    pythagoras = {name: max(scalars(measurements, f"{name}_pythagoras")) for name in WITHOUT_DECAY}
    memory = max(scalars(measurements, "momentum_memory"))
    intervals = {f"{name}_falls": t_interval(scalars(measurements, f"{name}_falls")) for name in ARMS}
    if falls["sgd"] > 0 or pythagoras["sgd"] > IDENTITY:
        verdict = Verdict.REFUTED
    elif min(scalars(measurements, "sgd_decay_falls")) == 0:
        verdict = Verdict.INCONCLUSIVE
    else:
        shrinks = any(falls[name] > 0 for name in WITHOUT_DECAY)
        verdict = Verdict.PARTLY if shrinks else Verdict.SUPPORTED
    mean = {name: f"{100 * interval.mean:.2g} %" for name, interval in intervals.items()}
    reason = (
        f"‖w‖ falls in {mean['sgd_falls']} of all steps and units under SGD, {mean['momentum_falls']} with momentum,"
        f" {mean['nesterov_falls']} with Nesterov, but {mean['adam_falls']} under Adam, lr 1e-3 (SGD with weight decay:"
        f" {mean['sgd_decay_falls']}). ‖w'‖² = ‖w‖² + ‖d‖² to {pythagoras['sgd']:.0e} under SGD; momentum adds"
        f" 2 Σ μʲ‖d₋ⱼ‖² (to {2 * memory:.0e})."
    )
    numbers = {f"{name}_pythagoras": value for name, value in pythagoras.items()} | {"momentum_memory": memory}
    return Judgement(verdict, reason, intervals, numbers)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Mean squared norm of all units against the step: a thin line per seed, a colour per arm."""
    figure, (axis,) = panels()
    steps = curves(measurements, "step")[0]
    for color, (name, arm) in zip(PALETTE, ARMS.items(), strict=True):
        falls = 100 * t_interval(scalars(measurements, f"{name}_falls")).mean
        dash = "--" if name == "sgd_default" else "-"  # lies on the line of "sgd"
        for i, norm in enumerate(curves(measurements, f"{name}_norm")):
            label = f"{arm.label}: {falls:.2g} %" if i == 0 else None
            axis.plot(steps, norm, dash, color=color, lw=0.8, alpha=0.7, label=label)
    axis.axhline(1.0, color=GREY, lw=0.8, ls=":")
    axis.set(xlabel="step", ylabel="mean ‖w‖² of a unit")
    legend = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    axis.legend(title="‖w‖ falls in this share of\nsteps and units", title_fontsize=8, alignment="left", **legend)
    return figure


CLAIM = Claim(
    name="growing_norm",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence="Observe that ‖w_j‖ increases monotonically",
    threshold=(
        f"SUPPORTED if, in float64 without eps and without weight decay, no unit's norm falls in any step under SGD,"
        f" SGD with momentum, Nesterov and Adam, and ‖w'‖² = ‖w‖² + ‖d‖² to {IDENTITY:.0e} under SGD; PARTLY if that"
        f" holds for SGD but some norm falls under another of the four; REFUTED if it fails for SGD; INCONCLUSIVE if"
        f" no norm falls with weight decay either."
    ),
    run=run,
    judge=judge,
    plot=plot,
)
