r"""Gradient descent on standardised activations does not feel where the activations lie.

:math:`\tilde a = \Sigma^{-1/2}(a - m)`, with weights that compute the same: the steps of `Standardizing`. Two
questions: whether the outliers are gone from the GGN's blocks in these coordinates, and whether a constant added to
each hidden unit, which the next layer's bias takes off again, leaves the training alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from truestep.conditioning import GradientCentering, Standardizing
from truestep.lab._blocks import WIDTHS, Block, blocks, centred_digits, mean_loss, net, standardized, with_one
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import t_interval
from truestep.lab._recoded import difference, recoded, shifts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES: Final = 400
STEPS: Final = 50
EXACT: Final = 1e-9  # difference of logits that counts as none
CONTRAST: Final = 0.1  # ... that must show under SGD
GONE: Final = 2.0  # largest eigenvalue, in units of the weights' with centred inputs, that is no outlier
OUTLIER: Final = 10.0  # ... that the logistic net must have as it is

ARMS: Final[dict[str, tuple[float, Callable[[nn.Module, torch.optim.Optimizer], Any]]]] = {
    "sgd": (1.0, lambda model, _: model),
    "standardizing": (0.1, lambda model, optimizer: Standardizing(model, optimizer, damping=0.0)),
    "diagonal": (0.1, lambda model, optimizer: Standardizing(model, optimizer, matrix="diagonal", damping=0.0)),
    "centering": (0.1, GradientCentering),
}
COORDINATES: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "raw": lambda a: a,
    "centred": lambda a: a - a.mean(0),
    "standardized": standardized,
}
LAYERS: Final = ("logistic_hidden", "logistic_head", "tanh_hidden", "tanh_head")


def excess(block: Block) -> dict[str, float]:
    """Largest eigenvalue in each coordinates, in units of the weights' own there with centred inputs."""
    found: dict[str, float] = {}
    for name, transform in COORDINATES.items():
        there = Block(transform(block.a), block.roots)
        largest = torch.linalg.eigvalsh(there.matrix(with_one(there.a)))[-1]
        found[name] = float(largest) / there.centred
    return found


def logits(model: nn.Sequential, arm: str, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """After full-batch steps."""
    lr, attach = ARMS[arm]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    attach(model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        mean_loss("softmax", model(x), y).backward()
        optimizer.step()
    return model(x).detach()


def run(seed: int, device: str, *, steps: int = STEPS, samples: int = SAMPLES) -> Measurement:
    """Excess of hidden and head blocks; how far a net and its shifted twin part under each arm."""
    out: Measurement = {}
    for activation in ("logistic", "tanh"):
        generator = torch.Generator().manual_seed(seed)
        x, _ = centred_digits(device, samples, generator)
        _, *layers = blocks(net(activation, WIDTHS, generator, device), x, "softmax")
        for layer, block in zip(("hidden", "head"), layers, strict=True):
            out |= {f"{activation}_{layer}_{name}": value for name, value in excess(block).items()}
    for arm in ARMS:
        generator = torch.Generator().manual_seed(seed)
        x, y = centred_digits(device, samples, generator)
        plain = net("logistic", WIDTHS, generator, device)
        twin = recoded(plain, shifts, generator, outputs=False, first=False)
        out[f"{arm}_difference"] = difference(*(logits(model, arm, x, y, steps) for model in (plain, twin)))
    return out


def verdict(shifted: float, largest: float, sgd: float, outlier: float) -> Verdict:
    """From the worst seeds: twins apart, excess in standardised coordinates; of SGD and raw ones the least."""
    if sgd < CONTRAST or outlier < OUTLIER:
        return Verdict.INCONCLUSIVE
    good = (shifted <= EXACT) + (largest <= GONE)
    return (Verdict.REFUTED, Verdict.PARTLY, Verdict.SUPPORTED)[good]


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Worst seeds for what must vanish, least ones for what must not."""
    apart = {arm: scalars(measurements, f"{arm}_difference") for arm in ARMS}
    of = {name: [scalars(measurements, f"{layer}_{name}") for layer in LAYERS] for name in COORDINATES}
    largest, outlier = max(map(max, of["standardized"])), min(map(min, of["raw"][:2]))
    names = [f"{layer}_{name}" for name in COORDINATES for layer in LAYERS]
    intervals = {name: t_interval(scalars(measurements, name)) for name in (*names, "sgd_difference")}
    centred = intervals["logistic_head_centred"].mean
    reason = (
        f"In standardised coordinates the largest eigenvalue of a block is at most {largest:.2f} times the weights' own"
        f" with centred inputs; as they are, logistic layers have {outlier:.0f} times and more, and the head with its"
        f" inputs' mean taken off still {centred:.0f}, from the bias's input of 1 beside a small Σ. Offsets of hidden"
        f" units part the logits after {STEPS} steps by {max(apart['standardizing']):.0e} (diagonal Σ:"
        f" {max(apart['diagonal']):.0e}, centred gradients: {max(apart['centering']):.0e}), under SGD by"
        f" {min(apart['sgd']):.2f} or more."
    )
    found = verdict(max(apart["standardizing"]), largest, min(apart["sgd"]), outlier)
    return Judgement(found, reason, intervals, {f"{arm}_difference": max(values) for arm, values in apart.items()})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Excess by layer and coordinates; differences of twins by arm."""
    figure, (left, right) = panels(2)
    rows = [(layer, name) for layer in LAYERS for name in COORDINATES]
    colors = dict(zip(COORDINATES, (ORANGE, GREEN, BLUE), strict=True))
    for row, (layer, name) in enumerate(rows):
        values = scalars(measurements, f"{layer}_{name}")
        left.plot(values, [row] * len(values), "o", ms=4, alpha=0.6, mec="none", color=colors[name])
    left.set_yticks(range(len(rows)), [f"{layer.replace('_', ' ')}, {name}" for layer, name in rows])
    left.axvline(GONE, color=GREY, lw=0.8, ls="--")
    left.set(xscale="log", xlabel="largest eigenvalue / weights' own with centred inputs")
    for row, arm in enumerate(ARMS):
        values = [max(value, 1e-16) for value in scalars(measurements, f"{arm}_difference")]
        right.plot(values, [row] * len(values), "o", ms=4, alpha=0.6, mec="none", color=BLUE)
    right.set_yticks(range(len(ARMS)), list(ARMS))
    right.axvline(EXACT, color=GREY, lw=0.8, ls="--")
    right.set(xscale="log", xlabel="largest difference of logits between a net and its shifted twin")
    left.invert_yaxis()
    right.invert_yaxis()
    return figure


CLAIM = Claim(
    name="standardized_updates",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slide “ICS and Invariance”",
    sentence="Updates in this coordinate system are immune to ICS",
    threshold=(
        f"Standardised activations, logistic and tanh MLPs in float64. SUPPORTED if (a) the largest eigenvalue of the"
        f" GGN's hidden and head blocks is at most {GONE:g} times the weights' with centred inputs and (b) constants"
        f" added to logistic units, and taken off by biases, change the logits after {STEPS} steps by at most"
        f" {EXACT:.0e}; PARTLY if one of the two; REFUTED if neither; INCONCLUSIVE if they change by less than"
        f" {CONTRAST} under SGD, or the logistic blocks as they are have less than {OUTLIER:g} times."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
