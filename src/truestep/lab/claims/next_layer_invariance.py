r"""Batch norm behind the next layer makes it blind to a shift and a scale of the activations before.

:math:`\phi(\operatorname{BN}(A W^\top))` is the same for :math:`c A + 1 d^\top`, any number c > 0 and vector d, for the
same W; so are the gradient and the training. Left out, one at a time: a scale for each unit, torch's eps, and a BN (the
head).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from truestep.lab._blocks import centred_digits, descent
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import mlp
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import t_interval
from truestep.lab._normalized import NO_EPS, TORCH_EPS, WIDTHS
from truestep.lab._recoded import Affine, Map, difference, identity, shifts, units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH: Final = 400
STEPS: Final = 100
LR: Final = 0.3
LARGE: Final = 3.0  # scale of the activations
SMALL: Final = 0.01
HIDDEN: Final = 3  # place behind the first activation
HEAD: Final = 6  # ... behind the last, which feeds no BN

EXACT: Final = 1e-9  # difference of logits that counts as none
PRACTICAL: Final = 1e-2  # ... as none at torch's eps
CONTRAST: Final = 0.1  # ... that must show at the head

CASES: Final = {
    "shift": "shifted",
    "large": f"times {LARGE:g}",
    "small": f"times {SMALL:g}",
    "trained": f"shifted and times {LARGE:g}, after {STEPS} steps",
    "units": "a scale for each unit",
    "default_shift": "torch's eps: shifted",
    "default_large": f"torch's eps: times {LARGE:g}",
    "default_small": f"torch's eps: times {SMALL:g}",
    "head": "before the head: shifted",
}


def inserted(seed: int, device: str, code: Map | None, place: int = HIDDEN, eps: float = NO_EPS) -> nn.Sequential:
    """A BN MLP with a fixed map of its activations."""
    norm = partial(nn.BatchNorm1d, eps=eps, affine=False)
    model = mlp(WIDTHS, norm, torch.Generator().manual_seed(seed), device=device, dtype=torch.float64)
    if code is not None:
        model.insert(place, Affine(*code).to(device))
    return model


def changed(seed: int, x: Tensor, code: Map, place: int = HIDDEN, eps: float = NO_EPS) -> float:
    """How much a map changes the logits of a net at the start."""
    nets = (inserted(seed, str(x.device), *where) for where in ((None, place, eps), (code, place, eps)))
    return difference(*(model(x).detach() for model in nets))


def trained(seed: int, x: Tensor, y: Tensor, both: Map, at_head: Map, steps: int) -> Measurement:
    """Losses as it is, with both shift and scale, and with a shift before the head; what the former changes."""
    device = str(x.device)
    plain, hidden = inserted(seed, device, None), inserted(seed, device, both)
    head = inserted(seed, device, at_head, HEAD)
    nets = {"plain": plain, "hidden": hidden, "head": head}
    out: Measurement = {f"losses_{name}": descent(model, x, y, LR, steps) for name, model in nets.items()}
    return out | {"trained": difference(plain(x).detach(), hidden(x).detach())}


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Largest difference of the logits that each map makes, at the start and after training."""
    generator = torch.Generator().manual_seed(1000 + seed)
    x, y = centred_digits(device, BATCH, generator)
    eye, none = identity(WIDTHS[0], generator)
    offset, scales = shifts(WIDTHS[0], generator)[1], units(WIDTHS[0], generator)[0]
    codes: dict[str, Map] = {"shift": (eye, offset), "large": (LARGE * eye, none), "small": (SMALL * eye, none)}
    out: Measurement = {name: changed(seed, x, code) for name, code in codes.items()}
    out |= {f"default_{name}": changed(seed, x, code, eps=TORCH_EPS) for name, code in codes.items()}
    out |= {"units": changed(seed, x, (scales, none)), "head": changed(seed, x, (eye, offset), HEAD)}
    return out | trained(seed, x, y, (LARGE * eye, offset), (eye, offset), steps)


def verdict(exact: float, units: float, default: float, head: float) -> Verdict:
    """From the largest differences; of the head's the least."""
    if head < CONTRAST:
        return Verdict.INCONCLUSIVE
    if exact > EXACT:
        return Verdict.REFUTED
    return Verdict.SUPPORTED if units <= EXACT and default <= PRACTICAL else Verdict.PARTLY


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Worst seeds for what must vanish."""
    worst = {case: max(scalars(measurements, case)) for case in CASES}
    exact = max(worst[case] for case in ("shift", "large", "small", "trained"))
    default = max(worst[f"default_{case}"] for case in ("shift", "large", "small"))
    head = min(scalars(measurements, "head"))
    reason = (
        f"Shifted or scaled activations change the logits by {exact:.0e} at most without eps, also after {STEPS} steps"
        f" of training. A scale for each unit changes them by up to {worst['units']:.2g}: “rescaling” holds for one"
        f" number only. With torch's eps a scale of {LARGE:g} changes them by up to {worst['default_large']:.0e}, of"
        f" {SMALL:g} by up to {worst['default_small']:.2g}. A shift before the head, with no BN behind, changes them by"
        f" {head:.2g} or more."
    )
    names = ("units", "default_large", "default_small", "head")
    intervals = {name: t_interval(scalars(measurements, name)) for name in names}
    return Judgement(verdict(exact, worst["units"], default, head), reason, intervals, worst)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Differences by case; losses of the first seed."""
    figure, (left, right) = panels(2)
    for row, case in enumerate(CASES):
        values = [max(value, 1e-17) for value in scalars(measurements, case)]
        color = ORANGE if case in ("units", "head") else BLUE
        left.plot(values, [row] * len(values), "o", ms=4, alpha=0.6, mec="none", color=color)
    left.axvline(EXACT, color=GREY, lw=0.8, ls="--")
    left.set(xscale="log", xlabel="largest difference of logits; dashed: threshold")
    left.set_yticks(range(len(CASES)), list(CASES.values()))
    left.invert_yaxis()
    lines = (("plain", "-", GREY), ("hidden", "--", BLUE), ("head", "-", GREEN))
    for name, dash, color in lines:
        label = {"plain": "as it is", "hidden": "map before a layer with BN", "head": "shift before the head"}[name]
        right.plot(curves(measurements, f"losses_{name}")[0], dash, color=color, label=label)
    right.set(yscale="log", xlabel="step", ylabel="loss")
    right.legend()
    return figure


CLAIM = Claim(
    name="next_layer_invariance",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slide “A Wrinkle”",
    sentence="This function is invariant to rescaling and shifting a_{ℓ-1}",
    threshold=(
        f"BN MLP in float64, hidden activations shifted, times {LARGE:g}, times {SMALL:g}. SUPPORTED if without eps the"
        f" logits change by at most {EXACT:.0e}, at the start, after {STEPS} steps, and with a scale for each unit, and"
        f" at torch's eps by at most {PRACTICAL:g}; PARTLY if only without eps and one scale for all units; REFUTED"
        f" if not; INCONCLUSIVE if a shift before the head, with no BN behind, changes them by less than {CONTRAST}."
    ),
    run=run,
    judge=judge,
    plot=plot,
)
