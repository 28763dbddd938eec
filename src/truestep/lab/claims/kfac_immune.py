r"""K-FAC does not see the scale of the weights, and so its steps do not slow down as the norm grows.

K-FAC takes the gradient G of a layer to :math:`S^{-1} G A^{-1}`, with the second moments A of the layer's inputs and S
of the gradients at its outputs under labels drawn from the model. Where a normaliser follows, w to c w takes G to G / c
and S to S / c², so the step to c times the step: the angle stays, where SGD's goes with 1 / c². Damping decides: added
in proportion to the mean eigenvalues of A and S it keeps this; as a number of its own, the usual way, it has a scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.core import gram
from truestep.invariance import angular_update
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import Digits, digits, hidden_weights
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._kfac import Layer, layers_of, precondition
from truestep.lab._normalized import LR, batch_norm_net

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH: Final = 128
STEPS: Final = 300
SHOWN: Final = 3  # steps from one point of a curve to the next
SCALE: Final = 3.0  # of the second run's first weights; a power of two would not even round otherwise
RELATIVE: Final = 1e-2  # damping of A and S, in units of their mean eigenvalue
ABSOLUTE: Final = 1e-3  # damping of their product, as an implementation has it by default
TRUST: Final = 1e-3  # largest lr² <step, gradient>, by which a step is shortened

EXACT: Final = 1e-6  # difference of logits, and exponent, that counts as none
SMALL: Final = 0.1  # exponent that counts as immune in practice
CONTRAST: Final = 1e-2  # difference of logits that must show under SGD

Steps: TypeAlias = dict[str, Tensor]  # by the layer's name, [out, in], lr included


class Arm(NamedTuple):
    """A way to turn gradients into steps."""

    label: str
    color: str
    lr: float
    relative: float | None = None  # damping of K-FAC in units of the mean eigenvalues
    absolute: float = 0.0  # ... of the product, as a number

    def step(self, layers: dict[str, Layer]) -> Steps:
        """The steps of all layers."""
        if self.relative is None:
            return {name: -self.lr * layer.gradient for name, layer in layers.items()}
        natural = {name: precondition(layer, self.relative, self.absolute) for name, layer in layers.items()}
        inner = sum(float((natural[name] * layer.gradient).sum()) for name, layer in layers.items())
        factor = min(self.lr, (TRUST / inner) ** 0.5) if inner > 0 else self.lr
        return {name: -factor * d for name, d in natural.items()}


ARMS: Final = {
    "sgd": Arm("SGD", GREY, LR),
    "kfac": Arm("K-FAC, damping relative", BLUE, 1.0, RELATIVE),
    "damped": Arm(f"K-FAC, damping {ABSOLUTE}", ORANGE, 1.0, 1e-9, ABSOLUTE),
}


def angle(model: nn.Sequential, steps: Steps) -> float:
    """Rms angle over all hidden units that the steps turn, in rad."""
    weights = hidden_weights(model)
    angles = [angular_update(gram(weights[name].detach(), d, d, unit_dim=0)) for name, d in steps.items()]
    return torch.cat(angles).square().mean().sqrt().item()


@torch.no_grad()
def scaled(model: nn.Sequential, factor: float) -> None:
    """Multiply the hidden weights."""
    for w in hidden_weights(model).values():
        w.mul_(factor)


def exponent(arm: Arm, model: nn.Sequential, data: Digits, index: Tensor, seed: int) -> float:
    """-log(angle at SCALE times the weights / angle at the weights) / log SCALE: 0 is immune, SGD has 2."""
    one = angle(model, arm.step(layers_of(model, data, index, seed)))
    scaled(model, SCALE)
    other = angle(model, arm.step(layers_of(model, data, index, seed)))
    scaled(model, 1 / SCALE)
    return -log(other / one) / log(SCALE)


class Course(NamedTuple):
    """A training: what the model answers to the test images at the end, the rms angle of each step, norms, loss."""

    logits: Tensor
    angles: list[float]
    growth: float  # norm of a hidden unit at the end over the start, geometric mean
    loss: float  # of the last batch
    exponent: float


def train(arm: Arm, factor: float, seed: int, device: str, steps: int) -> Course:
    """Train the hidden layers from `factor` times the first weights."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device, torch.float64)
    model = batch_norm_net(generator, device)
    scaled(model, factor)
    start = log_norm(model)
    angles: list[float] = []
    index = torch.zeros(0, dtype=torch.long)
    for k in range(steps):
        index = torch.randint(len(data.train_y), (BATCH,), generator=generator)
        taken = arm.step(layers_of(model, data, index, 1000 * seed + k))
        angles.append(angle(model, taken))
        with torch.no_grad():
            for name, w in hidden_weights(model).items():
                w.add_(taken[name])
    growth, at_end = exp(log_norm(model) - start), exponent(arm, model, data, index, seed)
    with torch.no_grad():
        loss = cross_entropy(model(data.train_x[index]), data.train_y[index]).item()
        return Course(model(data.test_x), angles, growth, loss, at_end)


def log_norm(model: nn.Sequential) -> float:
    """Log ‖w‖ of a hidden unit, the mean over all."""
    return torch.cat([w.detach().norm(dim=1).log() for w in hidden_weights(model).values()]).mean().item()


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """For each arm, what rescaled first weights change in the end, and the angle's exponent in the norm."""
    out: Measurement = {}
    for name, arm in ARMS.items():
        plain, large = (train(arm, factor, seed, device, steps) for factor in (1.0, SCALE))
        out |= {
            f"{name}_difference": (plain.logits - large.logits).abs().max().item(),
            f"{name}_exponent": plain.exponent,
            f"{name}_growth": plain.growth,
            f"{name}_loss": plain.loss,
            f"{name}_angles": plain.angles[::SHOWN],
            f"{name}_angles_large": large.angles[::SHOWN],
        }
    return out


def verdict(exponents: dict[str, Interval], kfac_difference: float, sgd_difference: float, sgd: Interval) -> Verdict:
    """Exactness of undamped K-FAC, and what the usual damping leaves of it."""
    if sgd_difference < CONTRAST or sgd.low < 1:
        return Verdict.INCONCLUSIVE
    exact = max(abs(exponents["kfac"].low), abs(exponents["kfac"].high)) <= EXACT and kfac_difference <= EXACT
    if not exact:
        return Verdict.REFUTED
    if max(abs(exponents["damped"].low), abs(exponents["damped"].high)) <= SMALL:
        return Verdict.SUPPORTED
    return Verdict.PARTLY


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Worst seeds for what must be exact."""
    interval = {name: t_interval(scalars(measurements, f"{name}_exponent")) for name in ARMS}
    growth = {name: t_interval(scalars(measurements, f"{name}_growth")) for name in ARMS}
    worst = {name: max(scalars(measurements, f"{name}_difference")) for name in ARMS}
    least = min(scalars(measurements, "sgd_difference"))
    reason = (
        f"The angle of a step goes as ‖w‖ to the power -a: a = {interval['sgd'].mean:.3g} under SGD,"
        f" {abs(interval['kfac'].mean):.0e} under K-FAC with damping in proportion to its factors, {interval['damped']}"
        f" with a damping of {ABSOLUTE:g}, and norms end at {growth['kfac'].mean:.2f} of their start after {STEPS}"
        f" steps (SGD: {growth['sgd'].mean:.2f}). From weights {SCALE:g} times as large the logits end"
        f" {worst['kfac']:.0e} apart (SGD: {least:.2g} or more; damped: up to {worst['damped']:.2g})."
    )
    found = verdict(interval, worst["kfac"], least, interval["sgd"])
    intervals = {f"{name}_exponent": i for name, i in interval.items() if name != "kfac"}
    intervals |= {f"{name}_growth": i for name, i in growth.items()}
    losses = {f"{name}_loss": t_interval(scalars(measurements, f"{name}_loss")) for name in ARMS}
    numbers = {f"{name}_difference": value for name, value in worst.items()}
    numbers["kfac_exponent"] = max(map(abs, scalars(measurements, "kfac_exponent")))
    return Judgement(found, reason, intervals | losses, numbers)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Angle of each step of the first seed, from the first weights and from larger ones."""
    figure, axes = panels(len(ARMS))
    for axis, (name, arm) in zip(axes, ARMS.items(), strict=True):
        for suffix, dash, label in (("", "-", "first weights"), ("_large", "--", f"{SCALE:g} times as large")):
            values = curves(measurements, f"{name}_angles{suffix}")[0]
            color = GREEN if suffix else arm.color
            axis.plot(
                [SHOWN * k for k in range(len(values))], values, dash, color=color, lw=0.9, alpha=0.8, label=label
            )
        axis.set(yscale="log", xlabel="step", ylabel="angle of a step, rad", title=arm.label)
        axis.legend()
    return figure


CLAIM = Claim(
    name="kfac_immune",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence="E.g. K-FAC is invariant to affine transformations, and therefore immune to this effect",
    threshold=(
        f"BN MLP in float64 without eps, {STEPS} steps; a: exponent of the angle of a step ~ ‖w‖^-a. SUPPORTED if for"
        f" K-FAC with damping relative to its factors |a| is at most {EXACT:.0e} and so is the difference of the logits"
        f" from first weights {SCALE:g} times as large, and for K-FAC with damping {ABSOLUTE:g} |a| is at most {SMALL}"
        f" (95 % interval); PARTLY if only the former; REFUTED if not; INCONCLUSIVE if under SGD a is below 1 or the"
        f" logits differ by less than {CONTRAST}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
