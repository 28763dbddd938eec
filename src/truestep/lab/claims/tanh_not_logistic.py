r"""Logistic units and tanh units can make the same functions; gradient descent takes to one of the two better.

:math:`\tanh z = 2 \sigma(2 z) - 1`, so a logistic net has a twin of tanh units. From the usual first weights, of
variance 1 / fan-in, the two start as different functions (the logistic one passes a sixteenth of a signal's variance
on); recoded from the tanh net's weights they start as the same one, and only the coordinates differ. The lecture gives
the mean of the activations as the reason: the logistic less its mean, and the tanh with one, tell how far that goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Final

import torch

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict
from truestep.lab._covariate_shift import LRS, REACHED, STEPS, Stack, descend, images
from truestep.lab._interval import Interval
from truestep.lab._steps import mean_steps, measured, plot_steps, ratio, times
from truestep.lab._variants import VARIANTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS: Final = ("tanh", "tanh + 1", "logistic - 1/2", "logistic")
TWIN: Final = "logistic twin"
SLOWER: Final = 1.25  # factor in steps that counts


@torch.no_grad()
def twin(net: Stack, copies: int, seed: int, device: str, dtype: torch.dtype) -> Stack:
    """A logistic net that computes what a tanh net does.

    Args:
        net: The tanh net.
        copies: How many the twin has.
        seed: Of the net.
        device: Where the twin lives.
        dtype: Its number format.
    """
    other = Stack("logistic", VARIANTS["none"], copies, seed, device=device, dtype=dtype)
    for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        gain = 1 if i == len(net.weights) - 1 else 2  # logistic units take twice the argument
        slope, offset = (2, 1) if i else (1, 0)  # the layer's inputs as 2 a - 1
        other.weights[i].copy_((gain * slope * w).expand_as(other.weights[i]))
        other.biases[i].copy_((gain * (b - offset * w.sum(2))).expand_as(other.biases[i]))
    return other


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Steps of each activation from the usual first weights, and of the tanh net's logistic twin."""
    out: Measurement = {}
    for activation in ACTIVATIONS:
        out |= measured(activation, ["none"], seed, device, steps)
    x, y = images(seed, device)
    net = Stack("tanh", VARIANTS["none"], 1, seed, device=device)
    recoded = twin(net, len(LRS), seed, device, torch.float32)
    found = descend(recoded, x.float(), y, LRS, steps)
    return out | {f"{TWIN}, none": float(found.steps), f"{TWIN}, none: lr": found.lr if found.steps <= steps else 0.0}


def verdict(usual: Interval, recoded: Interval) -> Verdict:
    """Of the log of logistic steps over tanh's, from the usual weights and from the same function."""
    bound = log(SLOWER)
    slower = [each.low > bound for each in (usual, recoded)]
    if all(slower):
        return Verdict.SUPPORTED
    if any(slower):
        return Verdict.PARTLY
    return Verdict.REFUTED if usual.high < bound and recoded.high < bound else Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Steps over those of tanh."""
    found = {name: ratio(measurements, f"{name}, none", "tanh, none") for name in (*ACTIVATIONS[1:], TWIN)}
    reason = (
        f"Logistic units take {times(found['logistic'])} times the steps of tanh from the usual first weights and"
        f" {times(found[TWIN])} times from the weights that make the same function"
        f" ({mean_steps(measurements, 'logistic, none')} and {mean_steps(measurements, f'{TWIN}, none')} steps against"
        f" {mean_steps(measurements, 'tanh, none')}). A tanh with mean 1 takes {times(found['tanh + 1'])}, a logistic"
        f" without its mean {times(found['logistic - 1/2'])}."
    )
    return Judgement(verdict(found["logistic"], found[TWIN]), reason, found)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Steps of each activation."""
    names = (*ACTIVATIONS, TWIN)
    renamed: list[Measurement] = [{f"no norm, {name}": m[f"{name}, none"] for name in names} for m in measurements]
    return plot_steps(renamed, {"no norm": names})


CLAIM = Claim(
    name="tanh_not_logistic",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Internal Covariate Shift”",
    sentence="Classical recommendation: use tanh instead of logistic activations",
    threshold=(
        f"Full-batch gradient descent on digits, 20-14-14-14-10 without norm; steps until the loss is {REACHED} at the"
        f" best of 20 lrs. SUPPORTED if the 95 % interval of logistic steps over tanh steps lies above {SLOWER} both"
        f" from weights of variance 1 / fan-in and from weights that make the same function; PARTLY if from one of"
        f" them; REFUTED if both intervals lie below {SLOWER}; INCONCLUSIVE else."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
