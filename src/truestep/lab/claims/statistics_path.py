r"""That a batch-centred layer's gradient is the one of centred inputs is the doing of the path through the mean.

Behind :math:`Z = A W^\top` batch centering gives :math:`\bar W = \bar S^\top \tilde A` with
:math:`\tilde A = A - 1 m^\top` and :math:`\bar S` the gradient at the centred outputs. The knockout is
`BatchCenter1d(statistics="direct")`: the same outputs, with the mean out of the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.conditioning import BatchCenter1d, covariate_shift
from truestep.lab._blocks import centred_digits, descent
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import mlp
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import t_interval
from truestep.lab._recoded import Affine, difference, identity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES: Final = 400
WIDTHS: Final = (32, 32)
STEPS: Final = 60
LR: Final = 0.1
OFFSET: Final = 2.0  # added to each activation of the first layer
LAYER: Final = "3"  # the second linear layer; the offset comes right before it
CENTER: Final = "4"

EXACT: Final = 1e-12  # relative difference of two gradients that counts as none
SAME: Final = 1e-9  # difference of logits that counts as none
CONTRAST: Final = 0.1  # ... that must show in the knockout
EFFECT: Final = 1.5  # least |direct| / |full| that makes an effect

PATHS: Final = ("full", "direct")


def built(path: str, offset: float, seed: int, device: str) -> nn.Sequential:
    """A batch-centred ReLU MLP, a constant added to the inputs of its second layer."""

    def center(width: int) -> nn.Module:
        return BatchCenter1d(width, statistics="direct" if path == "direct" else "full")

    model = mlp(WIDTHS, center, torch.Generator().manual_seed(seed), device=device, dtype=torch.float64)
    eye, none = identity(WIDTHS[0], torch.Generator())
    model[2] = nn.Sequential(nn.ReLU(), Affine(eye, none + offset).to(device))
    return model


def relative(one: Tensor, other: Tensor) -> float:
    """|one - other| / |other|."""
    return float((one - other).norm() / other.norm())


def gradients(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Of the second layer: its own, and what centred and uncentred inputs would give."""
    a = model[:3](x).detach()  # [samples, features]
    center = model[4](model[3](a))
    loss = cross_entropy(model[5:](center), y)
    weight = model[3].get_parameter("weight")
    s, own = torch.autograd.grad(loss, (center, weight))
    return {"own": own, "centred": s.T @ (a - a.mean(0)), "uncentred": s.T @ a}


def ratio(model: nn.Sequential, x: Tensor, y: Tensor, name: str) -> float:
    """|direct| / |full| at the second layer's weight."""
    found = covariate_shift(model, [(x, y)], loss_fn=lambda model, batch: cross_entropy(model(batch[0]), batch[1]))
    return found.normalizations[name].weight_ratio


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Gradients of both paths against both inputs; how an offset of the activations changes the training of each."""
    x, y = centred_digits(device, SAMPLES, torch.Generator().manual_seed(1000 + seed))
    out: Measurement = {}
    for path in PATHS:
        found = gradients(built(path, OFFSET, seed, device), x, y)
        out |= {f"{path}_{inputs}": relative(found["own"], found[inputs]) for inputs in ("centred", "uncentred")}
        plain, moved = (built(path, offset, seed, device) for offset in (0.0, OFFSET))
        out[f"{path}_losses_plain"] = descent(plain, x, y, LR, steps)
        out[f"{path}_losses"] = losses = descent(moved, x, y, LR, steps)
        out |= {f"{path}_difference": difference(plain(x).detach(), moved(x).detach()), f"{path}_loss": losses[-1]}
    out["ratio"] = ratio(built("full", OFFSET, seed, device), x, y, CENTER)
    normalized = built("full", OFFSET, seed, device)
    normalized[4] = nn.BatchNorm1d(WIDTHS[1], affine=False, dtype=torch.float64, device=device)
    out["ratio_norm"] = ratio(normalized, x, y, CENTER)
    return out


def verdict(gradient: float, full: float, direct: float, effect: float) -> Verdict:
    """Largest errors of the gradients, differences that the offset makes, least |direct| / |full|."""
    if effect < EFFECT:
        return Verdict.INCONCLUSIVE
    if gradient > EXACT:
        return Verdict.REFUTED
    return Verdict.SUPPORTED if full <= SAME and direct >= CONTRAST else Verdict.PARTLY


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Worst seeds."""
    centred, uncentred = max(scalars(measurements, "full_centred")), max(scalars(measurements, "direct_uncentred"))
    full, direct = max(scalars(measurements, "full_difference")), min(scalars(measurements, "direct_difference"))
    names = ("ratio", "ratio_norm", "full_loss", "direct_loss", "direct_centred")
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    reason = (
        f"The gradient is the one of centred inputs to {centred:.0e}; with the mean out of the backward pass the one of"
        f" uncentred inputs, to {uncentred:.0e}, and {interval['ratio']} times as long (BN in its place:"
        f" {interval['ratio_norm']}). An offset of {OFFSET:g} on the activations changes the logits after {STEPS} steps"
        f" by {full:.0e}, in the knockout by {direct:.2g} or more; losses end at {interval['full_loss']} and"
        f" {interval['direct_loss']}."
    )
    found = verdict(max(centred, uncentred), full, direct, min(scalars(measurements, "ratio")))
    numbers = {"full_centred": centred, "direct_uncentred": uncentred, "full_difference": full}
    return Judgement(found, reason, interval, numbers | {"direct_difference": direct})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Losses with and without the offset, of the first seed."""
    figure, axes = panels(2)
    for axis, path, color in zip(axes, PATHS, (BLUE, ORANGE), strict=True):
        axis.plot(curves(measurements, f"{path}_losses_plain")[0], color=GREY, lw=2.5, alpha=0.5, label="as it is")
        axis.plot(curves(measurements, f"{path}_losses")[0], "--", color=color, label=f"activations + {OFFSET:g}")
        title = "batch centering" if path == "full" else "statistics path cut"
        axis.set(yscale="log", xlabel="step", ylabel="loss", title=title)
        axis.legend()
    return figure


CLAIM = Claim(
    name="statistics_path",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slide “A Wrinkle”",
    sentence="It's the statistics path that's responsible for this effect",
    threshold=(
        f"Batch-centred MLP in float64, {OFFSET:g} added to hidden activations. SUPPORTED if the next layer's gradient"
        f" is S̄ᵀÃ, and without the statistics path S̄ᵀA, both to {EXACT:.0e}, and if the offset changes the logits after"
        f" {STEPS} steps by at most {SAME:.0e} with the path and by {CONTRAST} or more without; PARTLY if only the"
        f" gradients are so; REFUTED if not; INCONCLUSIVE if |direct| is less than {EFFECT:g} times |full|."
    ),
    run=run,
    judge=judge,
    plot=plot,
)
