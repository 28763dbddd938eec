r"""Scaling the loss scales the gradient, and neither framework nor optimizer takes the factor out.

The gradient is linear in the loss, so a sum has :math:`D` times the mean's gradient, where D is what 'mean' divides by:
the number of compared values under MSE, of kept targets under cross-entropy, the sum of their weights with class
weights. What is added to a loss, on the other hand, leaves the gradient as it is: a factor scales it, the loss's value
as such does not. SGD passes the factor on to the weights; the optimizers that divide by the gradient's own size do not,
as long as the factor does not meet their eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import GREY, PALETTE, panels
from truestep.lab._interval import t_interval
from truestep.lab._training import Problem, digits_problem, flat_gradient, flat_weights, plain_mlp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE: Final = 10  # samples, inputs and outputs of the source's listing
IGNORED: Final = 3  # of the targets, where some are
FACTORS: Final = (1e-8, 1e-4, 1e4, 1e8)
ADDED: Final = 10.0
WIDTHS: Final = (64,)
BATCH: Final = 64
STEPS: Final = 20
MOVES: Final = (1e-2, 1e-1, 1.0, 1e1, 1e2)  # factors of the loss under which the weights' way is measured
LR: Final = 1e-5  # so small that every run sees nearly the same gradients

EXACT: Final = 1e-12  # relative error of an identity that counts as round-off, in float64
PASSED_ON: Final = 0.9  # an exponent of the distance moved in the factor from which on it is passed on
TAKEN_OUT: Final = 0.1  # and below which it is taken out

OPTIMIZERS: Final[dict[str, Callable[[Iterator[nn.Parameter]], Optimizer]]] = {
    "sgd": partial(SGD, lr=LR),
    "momentum": partial(SGD, lr=LR, momentum=0.9),
    "rmsprop": partial(RMSprop, lr=LR),
    "adagrad": partial(Adagrad, lr=LR),
    "adam": partial(Adam, lr=LR),
    "adamw": partial(AdamW, lr=LR, weight_decay=0.0),
}
LABELS: Final = {
    "sgd": "SGD",
    "momentum": "SGD, momentum .9",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
    "adam": "Adam",
    "adamw": "AdamW",
}


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    """The gradient of a loss as one vector."""
    model.zero_grad()
    loss.backward()
    return flat_gradient(model)


def off(a: Tensor, b: Tensor) -> float:
    """Distance between two gradients, relative to the second."""
    return ((a - b).norm() / b.norm()).item()


def identities(seed: int, device: str) -> dict[str, float]:
    """Relative errors: a sum's gradient against count times the mean's, a factor taken out again, a constant added."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    model = nn.Linear(SIZE, SIZE, device=device, dtype=torch.float64)
    x, y = draw(SIZE, SIZE).to(device), draw(SIZE, SIZE).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(draw(parameter.shape) / SIZE**0.5)
    target = torch.randint(SIZE, (SIZE,), generator=generator)
    target[:IGNORED] = -100
    target = target.to(device)
    weight = draw(SIZE).exp().to(device)
    weights = weight[target[IGNORED:]].sum().item()
    mean = gradient(model, mse_loss(model(x), y))
    by_factor = [off(gradient(model, c * mse_loss(model(x), y)) / c, mean) for c in FACTORS]
    return {
        "numel": off(gradient(model, mse_loss(model(x), y, reduction="sum")) / SIZE**2, mean),
        "kept": off(*_sum_and_mean(model, x, target, None, float(SIZE - IGNORED))),
        "weights": off(*_sum_and_mean(model, x, target, weight, weights)),
        "factor": max(by_factor),
        "added": off(gradient(model, mse_loss(model(x), y) + ADDED), mean),
    }


def moved(name: str, factor: float, problem: Problem, seed: int, device: str) -> float:
    """How far the weights are from their start after some steps on the loss times a factor."""
    generator = torch.Generator().manual_seed(seed)
    model = plain_mlp(WIDTHS, generator, device, torch.float64)
    start = flat_weights(model)
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(STEPS):
        index = torch.randint(len(problem.x), (BATCH,), generator=generator)
        optimizer.zero_grad()
        (factor * problem.loss(model(problem.x[index]), problem.y[index]).mean()).backward()
        optimizer.step()
    return (flat_weights(model) - start).norm().item()


def run(seed: int, device: str) -> Measurement:
    """Errors of the identities; for each optimizer the distance moved as a power of the loss's factor."""
    out: Measurement = {f"{name}_error": error for name, error in identities(seed, device).items()}
    problem, _ = digits_problem(device, torch.float64)
    for name in OPTIMIZERS:
        distances = [moved(name, factor, problem, seed, device) for factor in MOVES]
        out[f"{name}_moved"] = distances
        out[f"{name}_exponent"] = math.log10(distances[-1] / distances[0]) / math.log10(MOVES[-1] / MOVES[0])
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The identities decide whether the gradient scales; the optimizers' exponents, whether nobody takes it out."""
    names = ("numel", "kept", "weights", "factor", "added")
    errors = {name: max(scalars(measurements, f"{name}_error")) for name in names}
    exponent = {name: t_interval(scalars(measurements, f"{name}_exponent")) for name in OPTIMIZERS}
    if max(errors.values()) > EXACT:
        verdict = Verdict.REFUTED
    elif exponent["sgd"].low < PASSED_ON:
        verdict = Verdict.INCONCLUSIVE
    elif all(interval.low >= PASSED_ON for interval in exponent.values()):
        verdict = Verdict.SUPPORTED
    elif any(interval.high <= TAKEN_OUT for interval in exponent.values()):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    powers = ", ".join(f"{LABELS[name]} c^{interval.mean + 0.0:.2f}" for name, interval in exponent.items())
    reason = (
        f"The gradient of c·L is c·∇L to {errors['factor']:.0e}; a sum's is that of the mean times the number of"
        f" values (MSE, to {errors['numel']:.0e}), of kept targets (cross-entropy, {errors['kept']:.0e}) or the sum of"
        f" their weights ({errors['weights']:.0e}); L + {ADDED:.0f} changes nothing ({errors['added']:.0e}): the"
        f" factor counts, not the value. The optimizer may take it out: the way moved in {STEPS} steps goes as {powers}"
        f" for c from {MOVES[0]} to {MOVES[-1]:.0f}."
    )
    intervals = {f"{name}_exponent": interval for name, interval in exponent.items()}
    return Judgement(verdict, reason, intervals, {f"{name}_error": error for name, error in errors.items()})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Distance moved against the loss's factor, an optimizer a colour, a seed a line."""
    figure, (axis,) = panels()
    dashes = {"momentum": "--", "adagrad": "--", "adamw": ":"}  # lie on others
    for color, name in zip(PALETTE, OPTIMIZERS, strict=True):
        exponent = t_interval(scalars(measurements, f"{name}_exponent")).mean + 0.0
        for i, distances in enumerate(curves(measurements, f"{name}_moved")):
            label = f"{LABELS[name]}: c^{exponent:.2f}" if i == 0 else None
            axis.plot(MOVES, distances, dashes.get(name, "-"), marker="o", ms=3, color=color, lw=0.9, label=label)
    axis.set(xscale="log", yscale="log", xlabel="factor c of the loss", ylabel=f"distance moved in {STEPS} steps")
    axis.set_title("digits MLP, the lr the same")
    axis.grid(color=GREY, alpha=0.2, lw=0.5)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _sum_and_mean(
    model: nn.Module, x: Tensor, target: Tensor, weight: Tensor | None, count: float
) -> tuple[Tensor, Tensor]:
    """The sum's gradient over the count, and the mean's."""
    summed = gradient(model, cross_entropy(model(x), target, weight, reduction="sum")) / count
    return summed, gradient(model, cross_entropy(model(x), target, weight))


CLAIM = Claim(
    name="loss_scales_gradient",
    source="000: The case for unit-normalized loss, introduction and first listing",
    sentence=(
        "the scalar loss value you end up with also scales the gradients. I had assumed that gradients were"
        " automagically normalized by either the framework or the optimizer; neither is the case."
    ),
    threshold=(
        f"SUPPORTED if in float64 ∇(cL) = c∇L and ∇sum = D·∇mean (D: values, kept targets, sum of their weights) to"
        f" {EXACT:.0e}, and the distance that the weights move goes as c^{PASSED_ON} or more under SGD, momentum,"
        f" RMSprop, Adagrad, Adam and AdamW; PARTLY if the identities hold but c^{TAKEN_OUT} or less under some"
        f" optimizer; REFUTED if an identity fails; INCONCLUSIVE between, or if SGD does not pass c on."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
