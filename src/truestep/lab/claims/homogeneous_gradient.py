r"""The gradient of a scale-invariant loss grows as the weights shrink, and the Hessian with the square.

From :math:`L(w) = L(cw)` follow :math:`\nabla L(w) = c \nabla L(cw)` and :math:`\nabla^2 L(w) = c^2 \nabla^2 L(cw)`.
The source means all weights of a net that ends in a fixed layer. We take such a net as it says, at the start and after
training, then leave its conditions one at a time: torch's eps, an output layer that is scaled with the rest (the
contrast), no normaliser. The Hessian is compared by its products with random vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves
from truestep.lab._digits import Digits, digits
from truestep.lab._ensemble import EPS, Ensemble, column, draw_batches, draw_ensemble, forward, sgd_step
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, PINK, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (32, 32)
BATCH: Final = 128
STEPS: Final = 300  # of plain SGD, to look again after training
LR: Final = 0.3
SCALES: Final = (1e-6, 1e-3, 0.1, 0.5, 3.0, 10.0, 1e3, 1e6)
USUAL: Final = (0.1, 10.0)  # how far a norm may move in a run: where torch's defaults are judged
NO_EPS: Final = 1e-30  # torch refuses 0
VECTORS: Final = 4  # random ones, that the Hessian is multiplied with

EXACT: Final = 1e-10  # relative error that counts as round-off in float64
PRACTICAL: Final = 1e-2  # ... and as the law at torch's defaults
CONTRAST: Final = 0.1  # what must not follow the law errs by more

CASES: Final = {
    "exact": ("fixed output layer, no eps, at the start", BLUE),
    "trained": (f"the same after {STEPS} steps", GREEN),
    "default": ("torch's defaults: float32, eps 1e-5", PINK),
    "head": ("output layer scaled too, no eps", ORANGE),
    "plain": ("no normaliser", GREY),
}
Loss: TypeAlias = Callable[[Sequence[Tensor]], Tensor]


def normalised_loss(weights: Sequence[Tensor], nets: Ensemble, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the nets with these weights: hidden layers, and the output layer where one more is given."""
    hidden, head = list(weights[: len(nets.hidden)]), [*weights, nets.head][len(nets.hidden)]
    return cross_entropy(forward(Ensemble(hidden, head, nets.eps), x).flatten(0, 1), y.flatten())


def plain_loss(weights: Sequence[Tensor], nets: Ensemble, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the same nets without the normaliser."""
    for w in weights:
        x = (x @ w).relu()
    return cross_entropy((x @ nets.head).flatten(0, 1), y.flatten())


def derivatives(loss: Loss, weights: Sequence[Tensor], c: float, seed: int) -> list[Tensor]:
    """Gradient at c w, and the Hessian there times each of a few random vectors; all weights as one vector."""
    at = [(c * w).detach().requires_grad_() for w in weights]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss(at), at, create_graph=True)])
    generator = torch.Generator().manual_seed(seed)
    found = [gradient.detach()]
    for _ in range(VECTORS):
        vector = torch.randn(len(gradient), generator=generator, dtype=torch.float64).to(gradient)
        product = torch.autograd.grad(gradient @ vector, at, retain_graph=True)
        found.append(torch.cat([p.flatten() for p in product]))
    return found


def errors(
    loss: Loss, weights: Sequence[Tensor], seed: int, scales: Sequence[float]
) -> tuple[list[float], list[float]]:
    """For each c the relative error of c g(cw) = g(w), and the largest of c² H(cw) v = H(w) v."""
    gradient, *products = derivatives(loss, weights, 1.0, seed)
    first: list[float] = []
    second: list[float] = []
    for c in scales:
        scaled, *others = derivatives(loss, weights, c, seed)
        first.append(((c * scaled - gradient).norm() / gradient.norm()).item())
        pairs = zip(others, products, strict=True)
        second.append(max(((c**2 * other - product).norm() / product.norm()).item() for other, product in pairs))
    return first, second


def train(nets: Ensemble, data: Digits, generator: torch.Generator, steps: int) -> None:
    """Plain SGD without decay."""
    for _ in range(steps):
        sgd_step(nets, *draw_batches(data, len(nets), BATCH, generator), column(LR, nets), column(0.0, nets))


def run(seed: int, device: str, *, steps: int = STEPS, scales: Sequence[float] = SCALES) -> Measurement:
    """Errors of the two laws for each case and c."""
    out: Measurement = {"c": list(scales)}

    def look(name: str, loss: Loss, weights: Sequence[Tensor]) -> None:
        out[f"{name}_gradient"], out[f"{name}_hessian"] = errors(loss, weights, seed, scales)

    for eps, dtype in ((NO_EPS, torch.float64), (EPS, torch.float32)):
        generator = torch.Generator().manual_seed(seed)
        data = digits(device, dtype)
        nets = draw_ensemble(1, WIDTHS, generator, eps=eps, device=device, dtype=dtype)
        x, y = draw_batches(data, 1, BATCH, generator)
        loss = partial(normalised_loss, nets=nets, x=x, y=y)
        if dtype == torch.float32:
            look("default", loss, nets.hidden)
            continue
        look("exact", loss, nets.hidden)
        look("head", loss, [*nets.hidden, nets.head])
        look("plain", partial(plain_loss, nets=nets, x=x, y=y), nets.hidden)
        train(nets, data, generator, steps)
        look("trained", loss, nets.hidden)
    return out


def worst(measurements: Sequence[Measurement], case: str, order: str, scales: Sequence[float] = SCALES) -> float:
    """The largest error of all seeds and of these scales."""
    pairs = zip(curves(measurements, "c"), curves(measurements, f"{case}_{order}"), strict=True)
    return max(error for c, found in pairs for at, error in zip(c, found, strict=True) if at in scales)


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The worst c of the worst seed for what must follow the law, the best of each seed for what must not."""
    orders = ("gradient", "hessian")
    exact = {order: max(worst(measurements, case, order) for case in ("exact", "trained")) for order in orders}
    default = {order: worst(measurements, "default", order, USUAL) for order in orders}
    tiny = worst(measurements, "default", "gradient", (1e-3,))
    contrast = min(min(c) for order in orders for c in curves(measurements, f"head_{order}"))
    if contrast < CONTRAST:
        verdict = Verdict.INCONCLUSIVE
    elif max(exact.values()) > EXACT:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.SUPPORTED if max(default.values()) <= PRACTICAL else Verdict.PARTLY
    reason = (
        f"For c from {SCALES[0]:g} to {SCALES[-1]:g}, float64, no eps: the gradient errs by {exact['gradient']:.0e},"
        f" the Hessian by {exact['hessian']:.0e}. At torch's defaults, c = .1 and 10: {default['gradient']:.0e} and"
        f" {default['hessian']:.0e}; the gradient at c = 1e-3, where eps rules: {tiny:.2g}. With the output layer"
        f" scaled too, the least error is {contrast:.2g}: it must stay fixed."
    )
    usual = SCALES.index(USUAL[0])
    named = {
        f"{case}_{order}": curves(measurements, f"{case}_{order}") for case in ("default", "head") for order in orders
    }
    intervals = {name: t_interval([curve[usual] for curve in found]) for name, found in named.items()}
    numbers = {f"exact_{k}": v for k, v in exact.items()} | {f"default_{k}": v for k, v in default.items()}
    return Judgement(verdict, reason, intervals, numbers)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Error against c, a line for each seed and case: gradient, Hessian."""
    figure, axes = panels(2)
    for axis, order, law in zip(
        axes, ("gradient", "hessian"), ("c ∇L(cw) = ∇L(w)", "c² ∇²L(cw) = ∇²L(w)"), strict=True
    ):
        for case, (label, color) in CASES.items():
            for i, found in enumerate(curves(measurements, f"{case}_{order}")):
                c = curves(measurements, "c")[i]
                axis.plot(c, found, ".-", color=color, lw=0.8, alpha=0.6, label=label if i == 0 else None)
        for threshold in (EXACT, PRACTICAL):
            axis.axhline(threshold, color=GREY, lw=0.8, ls="--")
        axis.set(xscale="log", yscale="log", xlabel="c", ylabel="relative error", title=law)
    axes[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


CLAIM = Claim(
    name="homogeneous_gradient",
    source="004: Li and Arora, blog post on normalized nets and the intrinsic LR (2020), first part",
    sentence=(
        "A consequence of scale invariance is that the ∇_w L|_{w = w₀} = c ∇_w L|_{w = c w₀} and"
        " ∇²_w L|_{w = w₀} = c² ∇²_w L|_{w = c w₀}, for any c > 0."
    ),
    threshold=(
        f"Relative errors, the worst of all seeds. SUPPORTED if for all c from {SCALES[0]:g} to {SCALES[-1]:g}, at the"
        f" start and after {STEPS} steps, both are at most {EXACT:.0e} in float64 without eps, and at most"
        f" {PRACTICAL:g} at torch's defaults (float32, eps 1e-5) for c = .1 and 10; PARTLY if only the first; REFUTED"
        f" if not even that; INCONCLUSIVE if an output layer scaled with the rest does not make them at least"
        f" {CONTRAST:g}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
