r"""K-FAC takes the same steps whatever affine map a layer's inputs or outputs go through.

:math:`S^{-1} G \bar A^{-1}` with K-FAC's factors from curvlinops. Maps M of a layer's inputs and N of its outputs take
:math:`\bar A` to :math:`M \bar A M^\top` and S to :math:`N^{-\top} S N^{-1}`, and both cancel. A fixed 0 ends the
logits: ten free ones under a softmax have a singular S.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn

from truestep.lab._blocks import mean_loss, net, principal_digits
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._digits import CLASSES
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import t_interval
from truestep.lab._recoded import Maker, measured, mixing, recoded, units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES: Final = 200
INPUTS: Final = 10  # principal components: pixels that never change have no inverse
HIDDEN: Final = (8, 6)
STEPS: Final = 40
DAMPING: Final = 1e-3  # curvlinops' own

EXACT: Final = 1e-6  # difference of logits that counts as none: without damping S is near singular
SMALL: Final = 1e-2  # ... as none in practice
CONTRAST: Final = 0.1  # ... that must show under SGD


class Arm(NamedTuple):
    """SGD, on the gradient or on K-FAC's direction."""

    label: str
    lr: float
    damping: float | None = None

    def train(self, model: nn.Sequential, x: Tensor, y: Tensor, steps: int) -> Tensor:
        """Full-batch steps; the logits in the end."""
        from truestep.integrations.curvlinops import kfac_direction  # which imports scipy

        for _ in range(steps):
            parameters = dict(model.named_parameters())
            found = torch.autograd.grad(mean_loss("softmax", model(x), y), list(parameters.values()))
            step = dict(zip(parameters, found, strict=True))
            if self.damping is not None:
                step = kfac_direction(model, [(x, y)], nn.CrossEntropyLoss(), step, damping=self.damping)
            with torch.no_grad():
                for name, p in parameters.items():
                    p.sub_(step[name], alpha=self.lr)
        return model(x).detach()


ARMS: Final = {
    "sgd": Arm("SGD", 0.3),
    "kfac": Arm("K-FAC", 0.1, 0.0),
    "damped": Arm(f"K-FAC, damping {DAMPING:g}", 0.1, DAMPING),
}
CODES: Final[dict[str, Maker]] = {"layer": mixing, "units": units}
LABELS: Final = {"layer": "layers mixed and shifted", "units": "units scaled and shifted"}


def pair(code: str, seed: int, device: str) -> tuple[nn.Sequential, nn.Sequential, Tensor, Tensor]:
    """A tanh net and its recoded twin, inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    x, y = principal_digits(device, SAMPLES, INPUTS, generator)
    plain = net("tanh", (INPUTS, *HIDDEN, CLASSES - 1), generator, device)
    plain.append(nn.ConstantPad1d((0, 1), 0.0))
    return plain, recoded(plain, CODES[code], generator), x, y


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """How far the logits of twins are apart after training, and how far they have come."""
    return measured(ARMS, CODES, lambda code: pair(code, seed, device), steps)


def verdict(exact: float, damped: float, sgd: float) -> Verdict:
    """From the largest differences under K-FAC, and the least of SGD."""
    if sgd < CONTRAST:
        return Verdict.INCONCLUSIVE
    if exact > EXACT:
        return Verdict.REFUTED
    return Verdict.SUPPORTED if damped <= SMALL else Verdict.PARTLY


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Worst seeds for what must be exact."""
    of = {name: [x for code in CODES for x in scalars(measurements, f"{name}_{code}")] for name in ARMS}
    exact, damped, least = max(of["kfac"]), max(of["damped"]), min(of["sgd"])
    names = [f"{name}_{code}" for name in ("sgd", "damped") for code in CODES] + ["kfac_way", "damped_way"]
    intervals = {name: t_interval(scalars(measurements, name)) for name in names}
    reason = (
        f"After {STEPS} full-batch steps, in which logits move by {intervals['kfac_way'].mean:.2g}, twins with affine"
        f" maps around every layer are at most {exact:.0e} apart under K-FAC without damping, up to {damped:.2g} with a"
        f" damping of {DAMPING:g}, and {least:.2g} or more under SGD."
    )
    numbers = {f"{name}_{code}": max(scalars(measurements, f"{name}_{code}")) for name in ARMS for code in CODES}
    return Judgement(verdict(exact, damped, least), reason, intervals, numbers)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """A dot for each seed, arm and code."""
    figure, (axis,) = panels()
    rows = [(name, code) for name in ARMS for code in CODES]
    for row, (name, code) in enumerate(rows):
        values = [max(value, 1e-16) for value in scalars(measurements, f"{name}_{code}")]
        color = ORANGE if name == "sgd" else BLUE
        axis.plot(values, [row] * len(values), "o", ms=4, alpha=0.6, mec="none", color=color)
    axis.axvline(EXACT, color=GREY, lw=0.8, ls="--")
    axis.set_xscale("log")
    axis.set_yticks(range(len(rows)), [f"{ARMS[name].label}: {LABELS[code]}" for name, code in rows])
    axis.invert_yaxis()
    axis.set_xlabel("largest difference of logits; dashed: threshold")
    return figure


CLAIM = Claim(
    name="layer_invariance",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slide “ICS and Invariance”",
    sentence="K-FAC is invariant to affine transformations of the layer as a whole",
    threshold=(
        f"Twins that compute one function, with affine maps around every layer, {STEPS} full-batch steps in float64,"
        f" exact factors. SUPPORTED if K-FAC's logits stay within {EXACT:.0e} without damping and within {SMALL:g} with"
        f" a damping of {DAMPING:g}; PARTLY if without only; REFUTED if not; INCONCLUSIVE if SGD parts them by less"
        f" than {CONTRAST}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
