r"""Weight decay makes gradient descent on :math:`L(x, y) = x^2 / (x^2 + y^2)` unstable at any lr, and chaotic.

The toy's minimum is the axis x = 0, and its curvature there is :math:`2 / \|w\|^2`: as decay shrinks the weights, the
lr gets too large for it. Before that, at a small lr · decay, x falls by so many powers of ten that float64 makes it 0,
and the loss stays 0 for ever: underflow, not convergence. So x and y are kept as logarithms.

Chaos is told by the largest Lyapunov exponent, the mean growth of a difference's logarithm per step, here times the
steps of one time scale 1 / (lr · decay). The contrast is the same descent without decay, which must converge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, log, pi
from typing import TYPE_CHECKING, Final

import torch

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import GREY, PALETTE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEIGHT_DECAY: Final = 0.5
LRS: Final = {"1": 1.0, "0.5": 0.5, "0.1": 0.1, "0.01": 0.01, "0.001": 0.001}
TIME_SCALES: Final = 60  # 1 / (lr · decay) each, that a run lasts, but at least
STEPS: Final = 20_000
FREE_TIME: Final = 20  # steps times lr without decay, but at least as many steps as above
POINTS: Final = 200  # of a curve

HIGH: Final = 0.1  # a loss that rises above this in each of the last two quarters has not converged
LOW: Final = 1e-3  # one that stays below this in both has
CHAOS: Final = (
    0.1  # nats per time scale, above which a difference grows; on a torus the exponent's estimate is near 0.01
)

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Descent:
    """Logarithm of the loss before each step, and the Lyapunov exponent per step."""

    log_loss: list[float]
    exponent: float


def start(seed: int) -> Point:
    """A point near distance 1 from the origin, in no axis' neighbourhood."""
    generator = torch.Generator().manual_seed(seed)
    angle = 0.1 + (pi / 2 - 0.2) * torch.rand((), generator=generator, dtype=torch.float64)
    radius = (0.3 * torch.randn((), generator=generator, dtype=torch.float64)).exp()
    return (radius * angle.cos()).item(), (radius * angle.sin()).item()


def descend(lr: float, weight_decay: float, steps: int, at: Point) -> Descent:
    """Gradient descent in u = log|x|, v = log|y|, with a small difference carried along by the step's Jacobian."""
    a, u, v = 1 - lr * weight_decay, log(at[0]), log(at[1])
    du, dv, total = 1.0, 0.0, 0.0
    losses: list[float] = []
    for _ in range(steps):
        ratio = exp(min(2 * (u - v), 300.0))  # x² / y²
        losses.append(2 * (u - v) - log(1 + ratio))
        f = 2 * lr * exp(-2 * v) / (1 + ratio) ** 2  # 2 lr y² / ‖w‖⁴: x' = x (a - f), y' = y (a + f x²/y²)
        by_u = -4 * f * ratio / (1 + ratio)
        df = by_u * du + (-2 * f - by_u) * dv
        x, y = a - f or 1e-300, a + f * ratio
        u, v = u + log(abs(x)), v + log(y)
        du, dv = du - df / x, dv + ratio * (df + 2 * f * (du - dv)) / y
        size = hypot(du, dv)
        total, du, dv = total + log(size), du / size, dv / size
    return Descent(losses, total / steps)


def late(log_loss: Sequence[float]) -> tuple[float, float]:
    """The largest loss of the third and of the last quarter: the lesser and the greater of the two.

    Example:
        >>> late([0.0, 0.0, -2 * log(2), -log(2)])
        (0.25, 0.5)
    """
    quarter = len(log_loss) // 4
    third, last = max(log_loss[2 * quarter : 3 * quarter]), max(log_loss[3 * quarter :])
    return exp(min(third, last)), exp(max(third, last))


def underflows(lr: float, weight_decay: float, steps: int, at: Point) -> bool:
    """Whether the gradient in plain float64 becomes exactly 0, so that nothing brings the descent back."""
    (x, y), a = at, 1 - lr * weight_decay
    for _ in range(steps):
        pull = 2 * x * y * y
        if pull == 0.0:
            return True
        square = (x * x + y * y) ** 2
        x, y = a * x - lr * pull / square, a * y + lr * 2 * y * x * x / square
    return False


def run(seed: int, device: str, *, factor: float = 1.0) -> Measurement:  # noqa: ARG001 (two numbers: the CPU's)
    """For each lr, with decay: late losses, exponent per time scale, the loss as a curve; and what it does without."""
    at = start(seed)
    out: Measurement = {}
    for name, lr in LRS.items():
        steps = int(factor * max(STEPS, TIME_SCALES / (lr * WEIGHT_DECAY)))
        found = descend(lr, WEIGHT_DECAY, steps, at)
        out[f"{name}_late"], _ = late(found.log_loss)
        out[f"{name}_exponent"] = found.exponent / (lr * WEIGHT_DECAY)
        out[f"{name}_lowest"] = min(found.log_loss) / log(10)
        out[f"{name}_underflows"] = float(underflows(lr, WEIGHT_DECAY, steps, at))
        shown = min(steps, int(20 / (lr * WEIGHT_DECAY)))  # the first 20 time scales
        out[f"{name}_curve"] = [max(v / log(10), -20.0) for v in found.log_loss[: shown : max(1, shown // POINTS)]][
            :POINTS
        ]
        free = descend(lr, 0.0, int(factor * max(STEPS, FREE_TIME / lr)), at)
        _, out[f"{name}_free_late"] = late(free.log_loss)
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Every lr's exponent over the starts, and the least late loss of all."""
    exponent = {name: t_interval(scalars(measurements, f"{name}_exponent")) for name in LRS}
    least = {name: min(scalars(measurements, f"{name}_late")) for name in LRS}
    free = max(max(scalars(measurements, f"{name}_free_late")) for name in LRS)
    unstable = all(loss > HIGH for loss in least.values())
    if free > LOW:
        verdict = Verdict.INCONCLUSIVE
    elif not any(loss > HIGH for loss in least.values()):
        verdict = Verdict.REFUTED
    elif unstable and all(found.low > CHAOS for found in exponent.values()):
        verdict = Verdict.SUPPORTED
    else:
        open_ = unstable and all(found.high > CHAOS for found in exponent.values())
        verdict = Verdict.INCONCLUSIVE if open_ else Verdict.PARTLY
    intervals = {f"{name}_exponent": found for name, found in exponent.items()}
    return Judgement(verdict, told(measurements), intervals, {f"{name}_late": loss for name, loss in least.items()})


def told(measurements: Sequence[Measurement]) -> str:
    """The reason, with the numbers in it."""
    least = [f"{min(scalars(measurements, f'{name}_late')):.2g}" for name in LRS]
    exponent = {name: t_interval(scalars(measurements, f"{name}_exponent")) for name in LRS}
    calm = ", ".join(name for name in LRS if exponent[name].high < CHAOS)
    free = max(max(scalars(measurements, f"{name}_free_late")) for name in LRS)
    stuck = [name for name in LRS if max(scalars(measurements, f"{name}_underflows")) > 0]
    lowest = [f"1e{t_interval(scalars(measurements, f'{name}_lowest')).mean:.0f}" for name in stuck]
    underflow = (
        f" In plain float64 the gradient becomes 0 at lr {', '.join(stuck)}, where the loss falls to"
        f" {', '.join(lowest)}: it seems to converge."
    )
    return (
        f"Decay {WEIGHT_DECAY:g}, lr {', '.join(LRS)}: late in the run the loss still rises to {', '.join(least)} or"
        f" more; a difference grows by {', '.join(f'{found.mean:.2g}' for found in exponent.values())} nats per time"
        f" scale 1/(lr · decay){f', so at lr {calm} it circles without chaos' if calm else ''}. Without decay"
        f" the loss stays below {free:.0e} at every lr.{underflow if stuck else ''}"
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Left the loss of the first seed at two lrs; right the exponents of all."""
    figure, (left, right) = panels(2)
    for color, name in zip(PALETTE, ("0.1", "0.01"), strict=False):
        curve = curves(measurements, f"{name}_curve")[0]
        times = [20 * i / max(1, len(curve) - 1) for i in range(len(curve))]
        left.plot(times, curve, color=color, lw=0.9, label=f"lr {name}")
    left.set(xlabel="steps · lr · decay", ylabel="log₁₀ of the loss (cut at -20)", title=f"decay {WEIGHT_DECAY:g}")
    left.legend()
    for i, name in enumerate(LRS):
        values = scalars(measurements, f"{name}_exponent")
        right.plot([i] * len(values), values, "o", color=PALETTE[0], alpha=0.6)
    right.axhline(CHAOS, color=GREY, lw=0.8, ls=":")
    right.set_xticks(range(len(LRS)), list(LRS))
    right.set(xlabel="lr", ylabel="Lyapunov exponent · 1 / (lr · decay)")
    return figure


CLAIM = Claim(
    name="toy_chaos",
    source="004: Li and Arora, blog post on normalized nets and the intrinsic LR (2020), “(Against CW1)”, Figure 1",
    sentence=(
        "We show that this non-smoothness issue is very real and makes training unstable and even chaotic for full"
        " batch SGD with any nonzero learning rate. This occurs both empirically and provably so with some toy losses."
    ),
    threshold=(
        f"x²/(x²+y²), decay {WEIGHT_DECAY:g}, lr {', '.join(LRS)}, random starts. Unstable: in both of the last two"
        f" quarters of every run the loss rises above {HIGH:g}. Chaotic: the 95 % interval of the Lyapunov exponent"
        f" lies above {CHAOS:g} per 1/(lr · decay) steps. SUPPORTED if unstable and chaotic at every lr; PARTLY if"
        f" unstable at some; REFUTED if at none; INCONCLUSIVE if without decay the loss of any run rises above {LOW:g}"
        f" as late, or if all are unstable and no interval lies below {CHAOS:g}, but one crosses it."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=8,
)
