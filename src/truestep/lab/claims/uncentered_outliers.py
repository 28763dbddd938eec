r"""Uncentred activations give a layer's curvature as many large eigenvalues as its outputs have directions.

With :math:`\bar A = \operatorname{diag}(\Sigma, 0) + \bar m \bar m^\top`, :math:`\bar m = (m; 1)`, K-FAC's block
:math:`\bar A \otimes S` has the eigenvalues :math:`\nu\lambda_i(S)` and more, :math:`\nu = \|m\|^2 + 1`, if ν is far
above :math:`\lambda_1(\Sigma)`. We take the GGN's own blocks, entry by entry, and call large what exceeds twice the
largest eigenvalue that the weights would have if the layer's inputs were centred.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from truestep.lab._blocks import WIDTHS, Block, Loss, blocks, centred_digits, net, train
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._digits import CLASSES
from truestep.lab._figure import BLUE, ORANGE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES: Final = 400
STEPS: Final = 200
LARGE: Final = 2.0  # in units of the largest eigenvalue without the mean
SHOWN: Final = 20  # eigenvalues

NEAR: Final = 0.1  # of νλ_i(S), where ν is far above λ_1(Σ)
ROUGH: Final = 0.25  # ... elsewhere
APART: Final = 1  # by how many the count may be off in layers without a clear end of the spectrum of S
SURE: Final = 20.0  # ν/λ_1(Σ) that the reason tells apart; no verdict hangs on it
FAR: Final = 1.0  # least |m|² of an uncentred layer

RANK: Final[dict[Loss, int]] = {"softmax": CLASSES - 1, "squared": CLASSES}  # directions that change the loss


class Case(NamedTuple):
    """One block: of which net, under which loss, when, and of which layer."""

    activation: str
    loss: Loss
    when: str
    layer: str

    def __str__(self) -> str:
        return "_".join(self)


CASES: Final = [
    Case(activation, loss, when, layer)
    for activation in ("logistic", "relu", "tanh")
    for loss in RANK
    for when in ("start", "trained")
    for layer in ("hidden", "head")
]
PLAIN: Final = [case for case in CASES if (case.activation, case.when, case.layer) == ("logistic", "start", "head")]
OTHERS: Final = [case for case in CASES if case.activation != "tanh" and case not in PLAIN]
LONG: Final = Case("relu", "softmax", "trained", "head")  # whose mean is longest
CENTRED: Final = [case for case in CASES if (case.activation, case.when) == ("tanh", "start")]


def measured(block: Block, case: Case) -> Measurement:
    """How many eigenvalues are large, how many should be, and how far the latter are from νλ_i(S)."""
    shift = block.shift
    values = torch.linalg.eigvalsh(block.ggn).flip(0) / block.centred  # [features + 1 times out]
    expected = shift.nu * torch.linalg.eigvalsh(block.s).flip(0) / block.centred  # [out]
    predicted = int((expected > LARGE).sum())
    error = (values[:predicted] / expected[:predicted] - 1).abs()
    found: Measurement = {
        "found": float((values > LARGE).sum()),
        "predicted": float(predicted),
        "error": float(error.max()) if predicted else 0.0,
        "squared_mean": shift.nu - 1,
        "outlier": shift.outlier,
        "values": values[:SHOWN].tolist(),
        "expected": expected.tolist(),
    }
    return {f"{case}_{name}": value for name, value in found.items()}


def run(seed: int, device: str, *, steps: int = STEPS, samples: int = SAMPLES) -> Measurement:
    """Each net's hidden and head block at the start and after training."""
    out: Measurement = {}
    for activation in ("logistic", "relu", "tanh"):
        for loss in RANK:
            generator = torch.Generator().manual_seed(seed)
            x, y = centred_digits(device, samples, generator)
            model = net(activation, WIDTHS, generator, device)
            for when in ("start", "trained"):
                _, hidden, head = blocks(model, x, loss)
                out |= measured(hidden, Case(activation, loss, when, "hidden"))
                out |= measured(head, Case(activation, loss, when, "head"))
                if when == "start":
                    train(model, x, y, loss, steps)
    return out


def worst(measurements: Sequence[Measurement], case: Case) -> tuple[float, float, float]:
    """Of all seeds: the most that the count is off, the largest count, the largest error."""
    found, predicted = (scalars(measurements, f"{case}_{name}") for name in ("found", "predicted"))
    off = max(abs(a - b) for a, b in zip(found, predicted, strict=True))
    return off, max(found), max(scalars(measurements, f"{case}_error"))


def is_plain(measurements: Sequence[Measurement], case: Case) -> bool:
    """Whether exactly the loss's directions are large in every seed, each near νλ_i(S)."""
    found = scalars(measurements, f"{case}_found")
    return set(found) == {RANK[case.loss]} and worst(measurements, case)[2] <= NEAR


def verdict(measurements: Sequence[Measurement]) -> Verdict:
    """The logistic head at the start carries the claim, the other uncentred layers its breadth."""
    far = min(value for case in PLAIN for value in scalars(measurements, f"{case}_squared_mean"))
    contrast = max(value for case in CENTRED for value in scalars(measurements, f"{case}_found"))
    if far < FAR or contrast > 0:
        return Verdict.INCONCLUSIVE
    if not all(is_plain(measurements, case) for case in PLAIN):
        return Verdict.REFUTED
    checks = [worst(measurements, case) for case in OTHERS]
    wide = all(off <= APART and most <= CLASSES and error <= ROUGH for off, most, error in checks)
    return Verdict.SUPPORTED if wide else Verdict.PARTLY


def errors(measurements: Sequence[Measurement], *, sure: bool) -> float:
    """Largest error of sizes in the other uncentred blocks with ν above SURE λ₁(Σ), or in those below."""
    at = {case: t_interval(scalars(measurements, f"{case}_outlier")).mean for case in OTHERS}
    return max((worst(measurements, case)[2] for case in OTHERS if (at[case] >= SURE) == sure), default=0.0)


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Counts and worst errors over all seeds."""
    at, found = (
        {case: t_interval(scalars(measurements, f"{case}_{name}")) for case in CASES} for name in ("outlier", "found")
    )
    soft, square = PLAIN
    far = t_interval(scalars(measurements, f"{LONG}_squared_mean"))
    reason = (
        f"The head of a logistic net (M = {CLASSES}, ν/λ₁(Σ) = {at[soft].mean:.0f}) has {found[soft].mean:g} outliers"
        f" under softmax, whose curvature lacks one direction, and {found[square].mean:g} under squared error, within"
        f" {max(worst(measurements, case)[2] for case in PLAIN):.1%} of νλ_i(S); a tanh net has none at the start. Of"
        f" the other uncentred blocks those with ν/λ₁(Σ) above {SURE:g} are as predicted within"
        f" {errors(measurements, sure=True):.1%}, the rest within {errors(measurements, sure=False):.0%} and with other"
        f" counts; |m| does not tell them apart: a trained ReLU head under softmax has ‖m‖² = {far.mean:.0f}, but"
        f" ν/λ₁(Σ) = {at[LONG].mean:.2g} and {found[LONG].mean:.2g} outliers."
    )
    intervals = {f"{case}_found": value for case, value in found.items()}
    intervals |= {f"{case}_outlier": value for case, value in at.items()}
    numbers = {f"{case}_error": worst(measurements, case)[2] for case in CASES}
    return Judgement(verdict(measurements), reason, intervals, numbers)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Head's spectrum of the first seed at the start, with the prediction."""
    figure, axes = panels(3)
    for axis, activation in zip(axes, ("logistic", "relu", "tanh"), strict=True):
        case = Case(activation, "softmax", "start", "head")
        values, expected = (curves(measurements, f"{case}_{name}")[0] for name in ("values", "expected"))
        kept = [value for value in expected if value > 1e-3]  # softmax has one 0
        axis.plot(range(1, len(values) + 1), values, "o", ms=4, color=BLUE, label="eigenvalue of the GGN's block")
        axis.plot(range(1, len(kept) + 1), kept, "x", ms=6, color=ORANGE, label="predicted: ν λ_i(S)")
        axis.axhline(LARGE, color="#777777", lw=0.8, ls="--", label="called large")
        axis.set(yscale="log", xlabel="i", ylabel="in units of centred inputs' largest", title=f"{activation}, softmax")
    axes[0].legend()
    return figure


CLAIM = Claim(
    name="uncentered_outliers",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slide “Internal Covariate Shift”",
    sentence=(
        "For a network with output dimension M, if m = E[a_{ℓ-1}] is far from zero, we'd expect G_ℓℓ to have as many as"
        " M large eigenvalues, namely νλ_i for each eigenvalue λ_i of S_ℓ, where ν = ‖m‖² + 1"
    ),
    threshold=(
        f"GGN blocks of a hidden layer and the head of {'-'.join(map(str, WIDTHS))} MLPs at the start and after {STEPS}"
        f" steps; large: above {LARGE:g} times the weights' largest eigenvalue with centred inputs. SUPPORTED if the"
        f" logistic head at the start has {CLASSES - 1} under softmax and {CLASSES} under squared error in every seed,"
        f" within {NEAR:.0%} of νλ_i(S), and all other logistic and ReLU blocks have, within {APART}, the predicted"
        f" number, at most M, of sizes within {ROUGH:.0%}; PARTLY if only the former; REFUTED if not; INCONCLUSIVE if"
        f" the logistic head's ‖m‖² is below {FAR:g}, or a tanh net has one at the start."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=6,
)
