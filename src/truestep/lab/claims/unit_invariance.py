r"""Quasi-diagonal natural gradient takes the same steps however the values of single units are shifted and scaled.

Two nets that compute one function are trained side by side: logistic units and tanh units
(:math:`\sigma(s) = (1 + \tanh(s/2))/2`), and a net with a fixed scale and offset at each unit, before and behind its
activation. Whole layers mixed by a matrix are beyond the sentence, and plain SGD and Adam are what it is better than.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn

from truestep.conditioning import QuasiDiagonal
from truestep.lab._blocks import mean_loss, net, principal_digits
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._digits import CLASSES
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import t_interval
from truestep.lab._recoded import measured, mixing, recoded, tanh_twin, units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES: Final = 200
WIDTHS: Final = (10, 8, 6, CLASSES)  # inputs are principal components; 64 pixels side by side let rounding grow
STEPS: Final = 40
DAMPING: Final = 0.01  # the default

EXACT: Final = 1e-9  # difference of logits that counts as none
SMALL: Final = 1e-2  # ... as none in practice
CONTRAST: Final = 0.1  # ... that must show under SGD


class Arm(NamedTuple):
    """A way to take a step; `fisher` is None for the optimizer alone."""

    label: str
    lr: float
    fisher: str | None = None
    damping: float = 0.0

    def train(self, model: nn.Sequential, x: Tensor, y: Tensor, steps: int) -> Tensor:
        """Full-batch steps; the logits in the end."""
        kind = torch.optim.Adam if self.label == "Adam" else torch.optim.SGD
        optimizer = kind(model.parameters(), lr=self.lr)
        transform = self.attach(model, optimizer)
        for _ in range(steps):
            optimizer.zero_grad()
            z = model(x)
            if transform is not None and self.fisher == "exact":
                transform.observe(z)
            mean_loss("softmax", z, y).backward()
            optimizer.step()
        return model(x).detach()

    def attach(self, model: nn.Sequential, optimizer: torch.optim.Optimizer) -> QuasiDiagonal | None:
        """The transform of this arm, if it has one."""
        if self.fisher is None:
            return None
        exact = self.fisher == "exact"
        return QuasiDiagonal(model, optimizer, fisher="exact" if exact else "empirical", damping=self.damping)


ARMS: Final = {
    "sgd": Arm("SGD", 0.3),
    "adam": Arm("Adam", 0.01),
    "exact": Arm("quasi-diagonal, exact Fisher", 0.01, "exact"),
    "empirical": Arm("quasi-diagonal, empirical Fisher", 0.001, "empirical"),
    "damped": Arm(f"quasi-diagonal, damping {DAMPING}", 0.01, "exact", DAMPING),
}
CODES: Final = {"tanh": "logistic as tanh", "units": "units shifted and scaled", "layer": "layers mixed"}


def pair(code: str, seed: int, device: str) -> tuple[nn.Sequential, nn.Sequential, Tensor, Tensor]:
    """A net and its recoded twin, inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    x, y = principal_digits(device, SAMPLES, WIDTHS[0], generator)
    plain = net("logistic", WIDTHS, generator, device)
    if code == "tanh":
        return plain, tanh_twin(plain), x, y
    maker = units if code == "units" else mixing
    return plain, recoded(plain, maker, generator, first=code == "units"), x, y


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """How far the logits of twins are apart after training, and how far they have come."""
    return measured(ARMS, CODES, lambda code: pair(code, seed, device), steps)


def verdict(exact: float, damped: float, sgd: float) -> Verdict:
    """From the largest differences under single-unit codes, and the least of SGD."""
    if sgd < CONTRAST:
        return Verdict.INCONCLUSIVE
    if exact > EXACT:
        return Verdict.REFUTED
    return Verdict.SUPPORTED if damped <= SMALL else Verdict.PARTLY


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Worst seeds for what must be exact."""
    of = {(name, code): scalars(measurements, f"{name}_{code}") for name in ARMS for code in CODES}
    worst = {key: max(values) for key, values in of.items()}
    exact = {name: max(worst[name, "tanh"], worst[name, "units"]) for name in ARMS}
    least = min(of["sgd", "tanh"] + of["sgd", "units"])
    reason = (
        f"After {STEPS} full-batch steps the logits of twins are {exact['exact']:.0e} apart with the exact Fisher and"
        f" {exact['empirical']:.0e} with the empirical one, both undamped (logistic against tanh:"
        f" {worst['exact', 'tanh']:.0e}); up to {exact['damped']:.2g} at the default damping of {DAMPING};"
        f" {least:.2g} or more under SGD, up to {exact['adam']:.2g} under Adam. Mixed layers part them by up to"
        f" {worst['exact', 'layer']:.2g}: the invariance is of single units."
    )
    names = [f"{name}_{code}" for name in ("sgd", "adam", "damped") for code in CODES] + ["exact_layer", "exact_way"]
    intervals = {name: t_interval(scalars(measurements, name)) for name in names}
    found = verdict(max(exact["exact"], exact["empirical"]), exact["damped"], least)
    return Judgement(found, reason, intervals, {f"{name}_{code}": value for (name, code), value in worst.items()})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """A dot for each seed, arm and code."""
    figure, (axis,) = panels()
    rows = [(name, code) for name in ARMS for code in CODES]
    for row, (name, code) in enumerate(rows):
        values = [max(value, 1e-16) for value in scalars(measurements, f"{name}_{code}")]
        promised = ARMS[name].fisher is not None and code != "layer"
        axis.plot(values, [row] * len(values), "o", ms=4, alpha=0.6, mec="none", color=BLUE if promised else ORANGE)
    axis.axvline(EXACT, color=GREY, lw=0.8, ls="--")
    axis.set_xscale("log")
    axis.set_yticks(range(len(rows)), [f"{ARMS[name].label}: {CODES[code]}" for name, code in rows], fontsize=6)
    axis.invert_yaxis()
    axis.set_xlabel("largest difference of logits; dashed: threshold")
    return figure


CLAIM = Claim(
    name="unit_invariance",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slide “ICS and Invariance”",
    sentence=(
        "Quasi-diagonal natural gradient is invariant to affine transformations of individual units (e.g. tanh vs."
        " logistic)"
    ),
    threshold=(
        f"Twins that compute one function, logistic against tanh and each unit shifted and scaled, {STEPS} full-batch"
        f" steps in float64. SUPPORTED if the logits stay within {EXACT:.0e} with the exact and with the empirical"
        f" Fisher, undamped, and within {SMALL:g} at the default damping of {DAMPING}; PARTLY if undamped only; REFUTED"
        f" if not; INCONCLUSIVE if SGD parts them by less than {CONTRAST}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
