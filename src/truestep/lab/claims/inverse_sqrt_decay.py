r"""The effective lr of a scale-invariant weight decays as :math:`1 / \sqrt{1 + k/k_0}`.

From Pythagoras, with :math:`r = \|w\|^2` and G the squared norm of the gradient at :math:`w / \|w\|`:
:math:`r' = r + \eta^2 G / r`, so with constant G :math:`r_k \approx r_0 \sqrt{1 + k/k_0}` and
:math:`k_0 = r_0^2 / (2 \eta^2 G)`. The lecture calls constant G "admittedly a bad assumption": we run one process in
which it is true and one real training in which it is not. The effective lr is :math:`\eta / r`; what the slides label
so, :math:`\eta / \|w\|`, would decay with the fourth root.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from truestep.core import Gram
from truestep.invariance import effective_lr
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import Digits, accuracy, descend, digits, hidden_weights, mlp, unit_gram
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS: Final = 3000
SHOWN: Final = (30, 300)  # steps at which the ratio is kept besides the last
POINTS: Final = 60  # of a curve, evenly on a log axis

DIMENSION: Final = 256  # the process with constant G: directions of w
UNITS: Final = 32
WALK_LR: Final = 0.1  # with r_0 = 1 and G = 1: eta² G / r_0² = .01, k_0 = 50

WIDTHS: Final = (32, 32)  # the real training: a BN MLP, fully scale invariant under its fixed head
BATCH: Final = 32
LR: Final = 0.3
START_BATCHES: Final = 100  # over which G is measured before the first step

MODEL_ERROR: Final = 2e-3  # of the process with constant G, relative
AGREES: Final = 1.1  # a measured / predicted effective lr between 1 / 1.1 and 1.1 counts as right


def law(
    r: Float64[Tensor, " units"], squared_gradient: Float64[Tensor, " units"], lr: float, steps: Tensor
) -> Float64[Tensor, "steps units"]:
    """The effective lr that the lecture predicts, from r and G of each unit at the start."""
    k0 = r**2 / (2 * lr**2 * squared_gradient)  # [units]
    return lr / r / (1 + steps[:, None] / k0).sqrt()


def constant_gradient_walk(seed: int, device: str, steps: int) -> Float64[Tensor, "steps units"]:
    """Effective lr of weights whose gradient at the unit sphere is random, tangential, and always of norm 1."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, UNITS, DIMENSION, generator=generator, dtype=torch.float64)
    w = normalize(draw().to(device))  # [units, dimension], r_0 = 1
    norms = torch.empty(steps, UNITS, dtype=torch.float64, device=device)
    for k in range(steps):
        r = w.square().sum(1, keepdim=True)  # [units, 1]
        norms[k] = r[:, 0]
        noise = draw().to(device)
        g = noise - (noise * w).sum(1, keepdim=True) / r * w  # tangential
        w = w - WALK_LR * normalize(g) / r.sqrt()  # the gradient at w is the one at w / ‖w‖, over ‖w‖
    return WALK_LR / norms


def gradient_at_start(model: nn.Sequential, data: Digits, generator: torch.Generator) -> Float64[Tensor, " units"]:
    """Mean over batches of G = ‖g‖² ‖w‖² of each hidden unit, the weights at rest."""
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(START_BATCHES):
        index = torch.randint(len(data.train_y), (BATCH,), generator=generator)
        model.zero_grad()
        cross_entropy(model(data.train_x[index]), data.train_y[index]).backward()
        grams = [unit_gram(w.detach(), w) for w in hidden_weights(model).values()]  # d = 0
        total = total + torch.cat([gram.gg * gram.ww for gram in grams])  # [units]
    return total / START_BATCHES


def real_training(seed: int, device: str, steps: int) -> tuple[Gram, Tensor, float]:
    """Grams [steps, units] of plain SGD at torch's defaults, G at the start [units], and the test accuracy."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device)
    model = mlp(WIDTHS, partial(nn.BatchNorm1d, affine=False), generator, device=device)
    at_start = gradient_at_start(model, data, generator)
    optimizer = torch.optim.SGD(hidden_weights(model).values(), lr=LR)
    trace = [
        torch.cat([gram.columns() for gram in grams.values()])  # [units, 6]
        for grams in descend(model, optimizer, data, batch_size=BATCH, steps=steps, generator=generator)
    ]
    return Gram.from_columns(torch.stack(trace)), at_start, accuracy(model, data)


def typical(values: Tensor) -> Tensor:
    """Geometric mean over units: [steps, units] to [steps]."""
    return values.log().mean(-1).exp()


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Error of the law where G is constant; measured over predicted effective lr where it is not."""
    index = torch.arange(steps, device=device)  # weights before step k
    walk = constant_gradient_walk(seed, device, steps)  # [steps, units]
    ones = torch.ones(UNITS, dtype=torch.float64, device=device)
    walk_error = (walk / law(ones, ones, WALK_LR, index) - 1).abs().max().item()

    gram, at_start, test_accuracy = real_training(seed, device, steps)
    measured = effective_lr(gram, LR)  # [steps, units]
    predicted = law(gram.ww[0], at_start, LR, index)
    ratio = typical(measured / predicted)  # [steps]
    squared_gradient = gram.gg * gram.ww  # G of every step
    grown = gram.ww[0] ** 2 + 2 * LR**2 * (squared_gradient.cumsum(0) - squared_gradient)  # r² by the law, G as it was
    shown = torch.logspace(0, torch.tensor(steps).log10().item(), POINTS).long().unique() - 1
    out: Measurement = {
        "walk_error": walk_error,
        "ratio": ratio[-1].item(),
        "ratio_measured_gradient": typical(measured * grown.sqrt() / LR)[-1].item(),
        "decay": typical(measured / measured[0])[-1].item(),
        "predicted_decay": typical(predicted / predicted[0])[-1].item(),
        "gradient_fall": (squared_gradient[-100:].mean() / at_start.mean()).item(),
        "test_accuracy": test_accuracy,
        "step": shown.double().tolist(),
        "measured": typical(measured)[shown].tolist(),
        "predicted": typical(predicted)[shown].tolist(),
        "walk": typical(walk)[shown].tolist(),
    }
    return out | {f"ratio_{k}": ratio[k - 1].item() for k in SHOWN if k <= steps}


def real_verdict(ratio: Interval) -> Verdict:
    """SUPPORTED inside the band, PARTLY outside, INCONCLUSIVE across its edge."""
    if ratio.low >= 1 / AGREES and ratio.high <= AGREES:
        return Verdict.SUPPORTED
    if ratio.low > AGREES or ratio.high < 1 / AGREES:
        return Verdict.PARTLY
    return Verdict.INCONCLUSIVE


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The process with constant G decides whether the law is right, the real run whether it is met."""
    names = [name for name, value in measurements[0].items() if not isinstance(value, list) and name != "walk_error"]
    interval = {name: t_interval(scalars(measurements, name)) for name in names}
    error = max(scalars(measurements, "walk_error"))
    verdict = Verdict.REFUTED if error > MODEL_ERROR else real_verdict(interval["ratio"])
    reason = (
        f"With constant ‖∇J(ŵ)‖², lr/‖w‖² follows it to {100 * error:.2f} % (lr/‖w‖, the slide's label, does not). In a"
        f" real training it falls to {interval['decay'].mean:.2f} of its start, not to"
        f" {interval['predicted_decay'].mean:.2f}: {interval['ratio']} times the prediction after {STEPS} steps, for"
        f" ‖∇J(ŵ)‖² falls to {interval['gradient_fall'].mean:.2f} of its start. With the measured ‖∇J(ŵ)‖² of every"
        f" step put in, the factor is {interval['ratio_measured_gradient'].mean:.4f}."
    )
    return Judgement(verdict, reason, interval, {"walk_error": error})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Effective lr against the step, measured and predicted, where G is constant and where it is not."""
    figure, (left, right) = panels(2)
    steps = torch.tensor(curves(measurements, "step")[0]) + 1
    one = torch.ones(1, dtype=torch.float64)
    left.plot(steps, law(one, one, WALK_LR, steps - 1)[:, 0], color=ORANGE, lw=3, alpha=0.5, label="predicted")
    left.plot(steps, curves(measurements, "walk")[0], color=BLUE, lw=1, label="measured")
    left.set_title("constant ‖∇J(ŵ)‖: random walk")
    for name, color in (("predicted", ORANGE), ("measured", BLUE)):
        for i, values in enumerate(curves(measurements, name)):
            right.plot(steps, values, color=color, lw=0.9, alpha=0.7, label=name if i == 0 else None)
    ratio = t_interval(scalars(measurements, "ratio"))
    right.set_title(f"digits, BN MLP, SGD: at the end {ratio} × predicted")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", xlabel="step", ylabel="effective lr, lr/‖w‖²")
        axis.legend()
        axis.grid(color=GREY, alpha=0.2, which="both", lw=0.5)
    return figure


CLAIM = Claim(
    name="inverse_sqrt_decay",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence="This translates into an effective learning rate schedule: α̂_k = α̂_0 / √(1 + k/k_0)",
    threshold=(
        f"k_0 = ‖w_0‖⁴ / (2 lr² G), G measured at the start. SUPPORTED if the effective lr follows the law to"
        f" {100 * MODEL_ERROR} % where ‖∇J(ŵ)‖ is constant, and the 95 % interval of measured over predicted after"
        f" {STEPS} steps of a real training lies within 1/{AGREES} to {AGREES}; PARTLY if that interval lies outside;"
        f" INCONCLUSIVE if it crosses an edge; REFUTED if the law fails where ‖∇J(ŵ)‖ is constant."
    ),
    run=run,
    judge=judge,
    plot=plot,
)
