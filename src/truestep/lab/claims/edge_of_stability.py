r"""Without normalisation too, the curvature adapts to the lr: full-batch gradient descent at the edge of stability.

Gradient descent on a parabola diverges where the curvature exceeds :math:`2/\eta`. On a network the largest eigenvalue
of the Hessian, the sharpness, grows until it is there and then stays: the product with :math:`\eta/2` is about 1 at
every lr, as far as the training is long enough to get there. Power iteration on Hessian-vector products, from the
vector of the time before, gives it. Under cross-entropy the Hessian vanishes with the loss, so the sharpness must fall
again once all is fitted (Cohen et al. say so too); a part of the labels is drawn anew there, which takes longer to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn.functional import one_hot

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import CLASSES, digits
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PINK, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._normalized import Weights, mean_losses, outputs, random_copies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES: Final = 200
GAIN: Final = 3**-0.5  # of the first weights: the variance that torch's layers start with, 1 / (3 fan-in)
STEPS: Final = 2000
EVERY: Final = 50  # steps between two looks at the sharpness
PRODUCTS: Final = 8  # Hessian-vector products of one look
FIRST: Final = 60  # of the first
LATE: Final = 0.25  # share of the looks, the last ones, over which the sharpness is averaged
PEAK: Final = 4  # looks in a row whose largest mean is shown besides
DRAWN_ANEW: Final = {"squares": 0.0, "entropy": 0.3}  # share of labels

NEAR: Final = (0.8, 1.2)  # sharpness x lr / 2 that counts as at the edge
FAR: Final = 0.5  # the contrast's must be below

LossOf: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # answers [copies, n, classes], labels [n], to [copies]


def half_squares(answers: Float[Tensor, "copies n classes"], y: Int[Tensor, " n"]) -> Float[Tensor, " copies"]:
    """Half the squared distance to the one-hot label, the mean over samples."""
    return (answers - one_hot(y, CLASSES).to(answers)).square().sum(2).mean(1) / 2


LOSSES: Final[dict[str, LossOf]] = {"squares": half_squares, "entropy": mean_losses}
LRS: Final = {"squares": (0.02, 0.1, 0.2, 0.4), "entropy": (0.02, 0.1, 0.2, 0.4)}  # the first is the contrast
LABELS: Final = {"squares": "half squared error", "entropy": "cross-entropy, 30 % of labels at random"}


def per_copy(parts: Sequence[Tensor]) -> Float64[Tensor, " copies"]:
    """Sum over everything but the copies, of all layers."""
    return torch.stack([part.double().flatten(1).sum(1) for part in parts]).sum(0)


def sharpness(
    weights: Weights, gradients: Sequence[Tensor], v: list[Tensor], products: int
) -> tuple[Float64[Tensor, " copies"], list[Tensor]]:
    """Each copy's Rayleigh quotient at the end of a power iteration from `v`, and its vector.

    That is the eigenvalue of the largest size, with its sign: the sharpness, where negative ones are smaller.

    Args:
        weights: Of the copies.
        gradients: Of their summed losses, with a graph.
        v: Start, one tensor for each layer.
        products: Hessian-vector products, at least one.
    """
    value = torch.zeros(len(weights[0]), dtype=torch.float64)
    for _ in range(products):
        norm = per_copy([part.square() for part in v]).sqrt()[:, None, None]
        v = [part / norm.to(part) for part in v]
        inner = torch.stack([(g * part).sum() for g, part in zip(gradients, v, strict=True)]).sum()
        hv = list(torch.autograd.grad(inner, weights, retain_graph=True))
        value = per_copy([part * image for part, image in zip(v, hv, strict=True)])
        v = hv
    return value, v


def images(share: float, generator: torch.Generator, device: str) -> tuple[Tensor, Tensor]:
    """Training images and their labels, a share of them drawn anew."""
    data = digits(device)
    index = torch.randperm(len(data.train_y), generator=generator)[:IMAGES]
    x, y = data.train_x[index], data.train_y[index]
    drawn = torch.randint(CLASSES, (IMAGES,), generator=generator).to(device)
    return x, torch.where(torch.arange(IMAGES, device=device) < share * IMAGES, drawn, y)


def descend(name: str, seed: int, device: str, steps: int) -> tuple[Tensor, Tensor]:
    """Full-batch gradient descent of a tanh MLP at each lr: sharpness and training loss, [looks, copies]."""
    loss_of, lrs = LOSSES[name], LRS[name]
    generator = torch.Generator().manual_seed(seed)
    x, y = images(DRAWN_ANEW[name], generator, device)
    weights = [w.detach().mul(GAIN).requires_grad_() for w in random_copies(len(lrs), generator, device)]
    v = [torch.randn(w.shape[1:], generator=generator).to(w).expand_as(w) for w in weights]
    sharp: list[Tensor] = []
    loss_at: list[Tensor] = []
    for k in range(steps + 1):
        loss, look = loss_of(outputs(weights, x, torch.tanh), y), k % EVERY == 0
        gradients = torch.autograd.grad(loss.sum(), weights, create_graph=look)
        if look:
            value, v = sharpness(weights, gradients, v, PRODUCTS if k else FIRST)
            sharp.append(value)
            loss_at.append(loss.detach().double())
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                w.sub_(torch.tensor(lrs, device=w.device)[:, None, None] * g.detach())
    return torch.stack(sharp), torch.stack(loss_at)


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Late sharpness x lr / 2 for each loss and lr, and the exponent of the sharpness over the lrs at the edge."""
    out: Measurement = {"step": [float(k) for k in range(0, steps + 1, EVERY)]}
    for name in LOSSES:
        sharp, loss = descend(name, seed, device, steps)
        peaks = sharp.unfold(0, min(PEAK, len(sharp)), 1).mean(2).amax(0)  # [copies]
        late = sharp[-max(1, int(LATE * len(sharp))) :].mean(0)  # [copies]
        for i, lr in enumerate(LRS[name]):
            out[f"{name}_{i}"] = (late[i] * lr / 2).item()
            out[f"{name}_peak_{i}"] = (peaks[i] * lr / 2).item()
            out[f"{name}_curve_{i}"] = sharp[:, i].tolist()
        out[f"{name}_exponent"] = ((late[-1] / late[1]).log() / log(LRS[name][-1] / LRS[name][1])).item()
        out[f"{name}_loss"] = loss[-1].tolist()
    return out


def at_edge(products: Sequence[Interval]) -> bool:
    """Whether the interval of sharpness x lr / 2 lies in the band at every lr."""
    return all(p.low >= NEAR[0] and p.high <= NEAR[1] for p in products)


def off_edge(products: Sequence[Interval]) -> bool:
    """Whether the interval lies outside of the band at some lr."""
    return any(p.low > NEAR[1] or p.high < NEAR[0] for p in products)


def verdict(products: dict[str, list[Interval]]) -> Verdict:
    """Of sharpness x lr / 2 by loss and lr, the contrast's first."""
    if any(row[0].high >= FAR for row in products.values()):
        return Verdict.INCONCLUSIVE
    judged = [row[1:] for row in products.values()]
    if all(at_edge(row) for row in judged):
        return Verdict.SUPPORTED
    if any(at_edge(row) for row in judged):
        return Verdict.PARTLY
    return Verdict.REFUTED if all(off_edge(row) for row in judged) else Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Late sharpness against 2 / lr."""
    products = {
        name: [t_interval(scalars(measurements, f"{name}_{i}")) for i in range(len(lrs))] for name, lrs in LRS.items()
    }
    exponents = {name: t_interval(scalars(measurements, f"{name}_exponent")) for name in LOSSES}
    peaks = [t_interval(scalars(measurements, f"entropy_peak_{i}")).mean for i in range(1, len(LRS["entropy"]))]
    told = [
        f"under {LABELS[name]} {', '.join(f'{p.mean:.2f}' for p in row[1:])} at lr"
        f" {', '.join(f'{lr:g}' for lr in LRS[name][1:])} (contrast, lr {LRS[name][0]:g}: {row[0].mean:.2f}), where the"
        f" sharpness goes as lr to the power {exponents[name]}"
        for name, row in products.items()
    ]
    reason = (
        f"Sharpness times lr / 2, the mean over the last quarter of {STEPS} steps: {'; '.join(told)}."
        f" Under cross-entropy it was at {', '.join(f'{peak:.2f}' for peak in peaks)} at most, the mean over"
        f" {EVERY * PEAK} steps, and fell once the labels were fitted."
    )
    intervals = {f"{name}_{lr:g}": p for name, row in products.items() for lr, p in zip(LRS[name], row, strict=True)}
    intervals |= {f"{name}_exponent": interval for name, interval in exponents.items()}
    return Judgement(verdict(products), reason, intervals)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Sharpness along the training for each lr, and 2 / lr as a dashed line of its colour."""
    figure, axes = panels(len(LOSSES))
    steps = curves(measurements, "step")[0]
    for axis, (name, lrs) in zip(axes, LRS.items(), strict=True):
        for i, (lr, color) in enumerate(zip(lrs, (GREY, BLUE, ORANGE, PINK), strict=True)):
            for j, values in enumerate(curves(measurements, f"{name}_curve_{i}")):
                axis.plot(steps, values, color=color, lw=0.7, alpha=0.6, label=f"lr {lr:g}" if j == 0 else None)
            if i:
                axis.axhline(2 / lr, color=color, lw=1, ls="--")
        axis.set(yscale="log", xlabel="step", ylabel="sharpness; dashed: 2 / lr", title=LABELS[name])
        axis.grid(color=GREEN, alpha=0.1, lw=0.5)
    axes[0].legend()
    return figure


CLAIM = Claim(
    name="edge_of_stability",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence=(
        "even in non-BN networks, for full-batch gradient descent, the network’s curvature adapts to compensate for the"
        " learning rate"
    ),
    threshold=(
        f"Tanh MLP without normaliser, full batch of {IMAGES} digits, three lrs a factor 4 apart in all; p = sharpness"
        f" x lr / 2, the mean over the last quarter of {STEPS} steps. SUPPORTED if the 95 % interval of p lies within"
        f" {NEAR[0]} to {NEAR[1]} at every lr under half squared error and under cross-entropy (30 % of"
        f" labels at random); PARTLY if under one of"
        f" the losses only; REFUTED if under each it lies outside at some lr; INCONCLUSIVE else, or if at a small lr,"
        f" {LRS['squares'][0]}, p is not below {FAR}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
