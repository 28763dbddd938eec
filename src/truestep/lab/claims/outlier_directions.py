r"""The outliers' eigenvectors lie along the mean input: m, or m with the bias's coordinate.

The block of weight and bias has a coordinate for the bias, whose input is 1: the same 1 that is in
:math:`\nu = \|m\|^2 + 1`. Its outliers should be :math:`(m; 1) \otimes v`; to :math:`m \otimes v` they then have a
cosine of :math:`\|m\|/\sqrt{\nu}`. Of an eigenvector U, [features + 1, out], its largest cosine with any
:math:`\bar m \otimes v` is :math:`\|\bar m^\top U\| / \|\bar m\|`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from truestep.lab._blocks import WIDTHS, Block, blocks, centred_digits, net
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._digits import CLASSES
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES: Final = 400
OUTLIERS: Final = CLASSES - 1  # under softmax

ALONG: Final = 0.99  # cosine that counts as that direction
CONTRAST: Final = 0.9  # ... that a net without outliers must not reach

NETS: Final = ("logistic", "relu", "tanh")
KINDS: Final = {
    "mean": ("with m ⊗ v", ORANGE),
    "whole": ("with (m; 1) ⊗ v", BLUE),
    "weights": ("weights' part alone, with m ⊗ v", GREEN),
}


def cosines(block: Block, count: int) -> dict[str, float]:
    """Least cosine, over the `count` top eigenvectors, with each of the directions."""
    mean = block.shift.mean.to(block.a)
    with_one = torch.cat([mean, mean.new_ones(1)])
    vectors = torch.linalg.eigh(block.ggn)[1][:, -count:].T.reshape(count, len(with_one), -1)  # [count, inputs, out]
    weights = vectors[:, :-1]

    def along(u: Tensor, direction: Tensor) -> Tensor:
        return torch.einsum("i,kio->ko", direction / direction.norm(), u).norm(dim=1)

    return {
        "mean": float(along(weights, mean).min()),
        "whole": float(along(vectors, with_one).min()),
        "weights": float((along(weights, mean) / weights.flatten(1).norm(dim=1)).min()),
    }


def run(seed: int, device: str, *, samples: int = SAMPLES) -> Measurement:
    """Of each net's head at the start."""
    out: Measurement = {}
    for activation in NETS:
        generator = torch.Generator().manual_seed(seed)
        x, _ = centred_digits(device, samples, generator)
        head = blocks(net(activation, WIDTHS, generator, device), x, "softmax")[-1]
        found = cosines(head, OUTLIERS) | {"outlier": head.shift.outlier}
        out |= {f"{activation}_{name}": value for name, value in found.items()}
    return out


def verdict(mean: float, whole: float, weights: float, contrast: float) -> Verdict:
    """From the least cosines of the logistic net, and the most that tanh has with (m; 1) ⊗ v."""
    if contrast >= CONTRAST:
        return Verdict.INCONCLUSIVE
    if mean >= ALONG:
        return Verdict.SUPPORTED
    return Verdict.PARTLY if min(whole, weights) >= ALONG else Verdict.REFUTED


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The worst eigenvector of the worst seed of the logistic net."""
    least = {kind: min(scalars(measurements, f"logistic_{kind}")) for kind in KINDS}
    contrast = max(scalars(measurements, "tanh_whole"))
    names = [f"{name}_{kind}" for name in NETS for kind in (*KINDS, "outlier")]
    intervals = {name: t_interval(scalars(measurements, name)) for name in names}
    reason = (
        f"The {OUTLIERS} outliers of a logistic net's head have cosines within {1 - least['whole']:.0e} of 1 with"
        f" (m; 1) ⊗ v, but of down to {least['mean']:.3f} with m ⊗ v: the bias has its coordinate in the eigenvector as"
        f" it has its 1 in ν. Their weights' part alone lies along m ⊗ v (within {1 - least['weights']:.0e}). Of ReLU,"
        f" with ν/λ₁(Σ) = {intervals['relu_outlier'].mean:.2g}, the least cosine with (m; 1) ⊗ v is"
        f" {intervals['relu_whole']}; of tanh, which has no outliers, {intervals['tanh_whole']}."
    )
    found = verdict(least["mean"], least["whole"], least["weights"], contrast)
    return Judgement(found, reason, intervals, {f"logistic_{kind}_least": value for kind, value in least.items()})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """A dot for each seed, net and direction."""
    figure, (axis,) = panels()
    rows = [(name, kind) for name in NETS for kind in KINDS]
    for row, (name, kind) in enumerate(rows):
        values = scalars(measurements, f"{name}_{kind}")
        axis.plot(values, [row] * len(values), "o", ms=4, alpha=0.6, mec="none", color=KINDS[kind][1])
    axis.axvline(ALONG, color=GREY, lw=0.8, ls="--")
    axis.set_yticks(range(len(rows)), [f"{name}: {KINDS[kind][0]}" for name, kind in rows])
    axis.invert_yaxis()
    axis.set_xlabel(f"least cosine of the {OUTLIERS} top eigenvectors; dashed: threshold")
    return figure


CLAIM = Claim(
    name="outlier_directions",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slide “Internal Covariate Shift”",
    sentence="The corresponding eigenvectors are of the form m ⊗ v for some vector v",
    threshold=(
        f"The {OUTLIERS} top eigenvectors of the GGN's block of the head, weight and bias, softmax, at the start;"
        f" logistic net. SUPPORTED if each has a cosine of {ALONG} or more with an m ⊗ v; PARTLY if only with an"
        f" (m; 1) ⊗ v, and so has its weights' part alone with an m ⊗ v; REFUTED if not; INCONCLUSIVE if a tanh net's"
        f" reach {CONTRAST} too."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=8,
)
