r"""The gradient of a scale-invariant weight is orthogonal to it.

Euler: from :math:`J(cw) = J(w)` for all c > 0 follows :math:`\langle w, \nabla J(w) \rangle = 0`. The lecture says it
for the weights :math:`w_j` into one unit j under batch norm as :math:`(x - \mu) / \sigma`, without an eps. We look at
units of a BN MLP as it says, then leave its conditions one at a time: torch's eps, small weights, another normaliser,
the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from truestep.core import Gram
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._digits import Digits, descend, digits, hidden_weights, mlp, unit_gram
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (32, 32)
BATCH: Final = 128
STEPS: Final = 300  # of plain SGD, to look again after training
LR: Final = 0.3
NO_EPS: Final = 1e-30  # torch refuses 0
TORCH_EPS: Final = 1e-5
SMALL: Final = 0.01  # norm of every unit once shrunken, as weight decay can do; at the start it is about 1

EXACT: Final = 1e-12  # largest |cos| that counts as round-off in float64
PRACTICAL: Final = 1e-3  # ... and as orthogonal at torch's defaults; 0.06 degrees
CONTRAST: Final = 1e-2  # smallest |cos| that counts as not orthogonal

CASES: Final = {
    "exact": "BN unit, no eps, at the start",
    "exact_trained": f"BN unit, no eps, after {STEPS} steps",
    "default": "BN unit, torch's defaults, at the start",
    "default_trained": f"BN unit, torch's defaults, after {STEPS} steps",
    "default_small": f"BN unit, torch's defaults, norm {SMALL}",
    "layernorm_tensor": "LN whole tensor, no eps",
    "layernorm_unit": "LN unit, no eps",
    "head_unit": "head's unit (feeds no normaliser)",
}


def cosine(gram: Gram) -> float:
    """Largest |cos(w, g)| over the units that have a gradient (a dead one has no direction)."""
    alive = gram.gg > 0
    return (gram.wg.abs() / (gram.weight_norm * gram.gradient_norm))[alive].max().item()


def hidden_and_head(model: nn.Sequential, data: Digits, index: torch.Tensor) -> tuple[list[Gram], Gram]:
    """Gram per unit, of each hidden layer and of the head, from the gradient on the images in `index`."""
    model.zero_grad()
    cross_entropy(model(data.train_x[index]), data.train_y[index]).backward()
    grams = [unit_gram(m.weight, m.weight) for m in model if isinstance(m, nn.Linear)]  # no step: d = 0
    return grams[:-1], grams[-1]


def batch_norm_cases(seed: int, device: str, dtype: torch.dtype, eps: float, steps: int) -> list[float]:
    """Largest |cos| of a BN MLP: hidden units at the start, after training, with small weights; the head's."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device, dtype)
    index = torch.randint(len(data.train_y), (BATCH,), generator=generator)
    norm = partial(nn.BatchNorm1d, eps=eps, affine=False)
    model = mlp(WIDTHS, norm, generator, device=device, dtype=dtype)

    start, head = hidden_and_head(model, data, index)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in descend(model, optimizer, data, batch_size=BATCH, steps=steps, generator=generator):
        pass
    trained, _ = hidden_and_head(model, data, index)
    with torch.no_grad():
        for weight in hidden_weights(model).values():
            weight.mul_(SMALL / weight.norm(dim=1, keepdim=True))  # [out, 1]
    small, _ = hidden_and_head(model, data, index)
    return [max(map(cosine, start)), max(map(cosine, trained)), max(map(cosine, small)), cosine(head)]


def layer_norm_cases(seed: int, device: str) -> tuple[float, float]:
    """Largest |cos| of an LN MLP's whole weight tensors, and of their single units."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device, torch.float64)
    index = torch.randint(len(data.train_y), (BATCH,), generator=generator)
    norm = partial(nn.LayerNorm, eps=NO_EPS, elementwise_affine=False)
    model = mlp(WIDTHS, norm, generator, device=device, dtype=torch.float64)
    units, _ = hidden_and_head(model, data, index)
    return max(cosine(layer.sum()) for layer in units), max(map(cosine, units))


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """Largest |cos(w, g)| over all units, for each case."""
    exact, exact_trained, _, head = batch_norm_cases(seed, device, torch.float64, NO_EPS, steps)
    default, default_trained, small, _ = batch_norm_cases(seed, device, torch.float32, TORCH_EPS, steps)
    tensor, unit = layer_norm_cases(seed, device)
    values = (exact, exact_trained, default, default_trained, small, tensor, unit, head)
    return dict(zip(CASES, values, strict=True))


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Take the worst unit of the worst seed for what must vanish, the best one for what must not."""
    worst = {case: max(scalars(measurements, case)) for case in CASES}
    exact = max(worst["exact"], worst["exact_trained"], worst["layernorm_tensor"])
    practical = max(worst["default"], worst["default_trained"])
    contrast = min(scalars(measurements, "layernorm_unit") + scalars(measurements, "head_unit"))
    if contrast < CONTRAST:
        verdict = Verdict.INCONCLUSIVE
    elif exact > EXACT:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.SUPPORTED if practical <= PRACTICAL else Verdict.PARTLY
    reason = (
        f"Largest |cos(w, g)| of a unit under BN: {exact:.0e} without eps, {practical:.0e} at torch's defaults, but"
        f" {worst['default_small']:.2f} once units have norm {SMALL}, where eps is no longer small. Under LN only the"
        f" whole tensor is orthogonal (its units: {worst['layernorm_unit']:.2f}); the head is not."
    )
    names = ("default_small", "layernorm_unit", "head_unit")
    intervals = {name: t_interval(scalars(measurements, name)) for name in names}
    return Judgement(verdict, reason, intervals, worst)


def plot(measurements: Sequence[Measurement]) -> Figure:
    """One dot per seed and case, against the two thresholds."""
    figure, (axis,) = panels()
    for row, case in enumerate(CASES):
        expected = case in ("default_small", "layernorm_unit", "head_unit")
        values = scalars(measurements, case)
        axis.plot(values, [row] * len(values), "o", ms=4, alpha=0.6, mec="none", color=ORANGE if expected else BLUE)
    for threshold in (EXACT, PRACTICAL):
        axis.axvline(threshold, color=GREY, lw=0.8, ls="--")
    axis.set_xscale("log")
    axis.set_yticks(range(len(CASES)), list(CASES.values()))
    axis.invert_yaxis()
    axis.set_xlabel("largest |cos(w, g)|; dashed: thresholds")
    return figure


CLAIM = Claim(
    name="orthogonal_gradient",
    source="001: Grosse, CSC 2541 lecture 5 (2021), slides “Implicit Learning Rate Decay”",
    sentence="Since w_j ⊥ ∇J(w_j), we can apply the Pythagorean Theorem",
    threshold=(
        f"SUPPORTED if the largest |cos(w, g)| over units and seeds, at the start and after {STEPS} steps, is at most"
        f" {EXACT:.0e} in float64 without eps and at most {PRACTICAL:.0e} at torch's defaults (float32, eps 1e-5);"
        f" PARTLY if only the first; REFUTED if not even that; INCONCLUSIVE if what must not be orthogonal (an LN"
        f" unit, the head) stays below {CONTRAST:.0e}."
    ),
    run=run,
    judge=judge,
    plot=plot,
)
