r"""With lr · weight decay fixed, another lr is another scale of the initial weights, and nothing else.

:math:`(\eta, \lambda, w_0) \to (c^2 \eta, \lambda / c^2, c w_0)` gives :math:`c w_t` at every step t: the same net. So
a changed lr at a fixed product is a rescaled start at the old lr. The source says it of SGD on a scale-invariant loss.
We train twins on the same batches and compare their logits, then leave its conditions one at a time: momentum, AdamW, a
trained output layer, torch's eps. The contrast changes the lr and leaves the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, scalars
from truestep.lab._digits import accuracy, digits, hidden_weights, mlp
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (32, 32)
BATCH: Final = 64
STEPS: Final = 300
LR: Final = 0.1
WEIGHT_DECAY: Final = 0.01
ADAM_LR: Final = 1e-3
SCALES: Final = (0.1, 5.0)
NO_EPS: Final = 1e-30  # torch refuses 0
TORCH_EPS: Final = 1e-5

EXACT: Final = 1e-10  # largest difference of a logit that counts as round-off in float64
CONTRAST: Final = 0.1  # ... and the smallest that counts as another net
POINTS: Final = 0.01  # of test accuracy, that the twins may differ by at torch's defaults


def sgd(weights: list[Tensor], c: float, momentum: float = 0.0) -> Optimizer:
    """SGD at lr c² η with decay λ / c²."""
    return SGD(weights, lr=c**2 * LR, momentum=momentum, weight_decay=WEIGHT_DECAY / c**2)


def adamw(weights: list[Tensor], c: float, power: int = 1) -> Optimizer:
    """AdamW at lr c η with decay λ / c and eps / c; by the source's law instead, c², with `power` 2."""
    return AdamW(weights, lr=c**power * ADAM_LR, weight_decay=WEIGHT_DECAY / c**power, eps=1e-8 / c)


class Arm(NamedTuple):
    """One way to train the twins.

    Args:
        label: What it is called.
        build: The optimizer of the weights, at c.
        start: Whether the start is scaled by c too.
        head: How the output layer is trained: not, "scaled" with the rest, or "apart" at the lr and decay of c = 1.
        dtype: Number format.
        eps: The norm's.
    """

    label: str
    build: Callable[[list[Tensor], float], Optimizer] = sgd
    start: bool = True
    head: str = ""
    dtype: torch.dtype = torch.float64
    eps: float = NO_EPS


ARMS: Final = {
    "sgd": Arm("SGD"),
    "momentum": Arm("SGD, momentum .9", partial(sgd, momentum=0.9)),
    "head_apart": Arm("output layer trained, its lr and decay as before", head="apart"),
    "adamw": Arm("AdamW, (c lr, decay / c, eps / c)", adamw),
    "default": Arm("SGD, float32, eps 1e-5", dtype=torch.float32, eps=TORCH_EPS),
    "adamw_squared": Arm("AdamW, (c² lr, decay / c²)", partial(adamw, power=2)),
    "head_scaled": Arm("output layer trained and scaled", head="scaled"),
    "unscaled": Arm("SGD, the start left as it was", start=False),
}
MUST_DIFFER: Final = ("unscaled", "head_scaled")


def optimizers(arm: Arm, model: nn.Sequential, c: float) -> Iterable[Optimizer]:
    """What trains the twin of scale c."""
    hidden, (head,) = list(hidden_weights(model).values()), list(model.parameters())[-1:]
    if arm.head == "apart":
        return arm.build(hidden, c), arm.build([head], 1.0)
    return (arm.build([*hidden, head] if arm.head else hidden, c),)


def train(arm: Arm, c: float, seed: int, device: str, steps: int) -> tuple[Tensor, float]:
    """Logits of the last step's images after training [images, classes], and the test accuracy."""
    generator = torch.Generator().manual_seed(seed)
    data = digits(device, arm.dtype)
    norm = partial(nn.BatchNorm1d, eps=arm.eps, affine=False)
    model = mlp(WIDTHS, norm, generator, device=device, dtype=arm.dtype)
    weights = list(hidden_weights(model).values()) if arm.head != "scaled" else list(model.parameters())
    with torch.no_grad():
        for w in weights if arm.start else ():
            w.mul_(c)
    trainers = list(optimizers(arm, model, c))
    index = torch.arange(BATCH)
    for _ in range(steps):
        index = torch.randint(len(data.train_y), (BATCH,), generator=generator)
        model.zero_grad()
        cross_entropy(model(data.train_x[index]), data.train_y[index]).backward()
        for trainer in trainers:
            trainer.step()
    return model(data.train_x[index]).detach(), accuracy(model, data)


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """For each arm and c: the largest difference of a logit from c = 1, and that of the test accuracy."""
    out: Measurement = {}
    for name, arm in ARMS.items():
        logits, right = train(arm, 1.0, seed, device, steps)
        for c in SCALES:
            twin, found = train(arm, c, seed, device, steps)
            out[f"{name}_{c:g}"] = (twin - logits).abs().max().item()
            out[f"{name}_{c:g}_accuracy"] = found - right
    return out


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The worst twin of plain SGD, the nearest of what must differ, the mean accuracy at torch's defaults."""
    worst = {name: max(max(scalars(measurements, f"{name}_{c:g}")) for c in SCALES) for name in ARMS}
    least = {name: min(min(scalars(measurements, f"{name}_{c:g}")) for c in SCALES) for name in MUST_DIFFER}
    gains = {f"default_{c:g}_accuracy": t_interval(scalars(measurements, f"default_{c:g}_accuracy")) for c in SCALES}
    same = all(gain.low >= -POINTS and gain.high <= POINTS for gain in gains.values())
    if least["unscaled"] < CONTRAST:
        verdict = Verdict.INCONCLUSIVE
    elif worst["sgd"] > EXACT:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.SUPPORTED if same else Verdict.PARTLY
    told = ", ".join(
        f"{100 * gain.mean:+.1f} points at c = {c:g}" for c, gain in zip(SCALES, gains.values(), strict=True)
    )
    reason = (
        f"After {STEPS} steps the logits of (c² lr, decay / c², c w₀) differ by {worst['sgd']:.0e} under SGD,"
        f" {worst['momentum']:.0e} with momentum, {worst['head_apart']:.0e} with an output layer trained at its old lr;"
        f" by {worst['head_scaled']:.1g} if that is scaled too, by {least['unscaled']:.1g} or more if the start is not."
        f" AdamW needs (c lr, decay / c, eps / c): {worst['adamw']:.0e}. At torch's defaults they part"
        f" ({worst['default']:.1g}), the test accuracy by {told}."
    )
    return Judgement(verdict, reason, gains, worst | {f"{name}_least": value for name, value in least.items()})


def plot(measurements: Sequence[Measurement]) -> Figure:
    """One dot per seed, arm and scale, against the thresholds."""
    figure, (axis,) = panels()
    for row, name in enumerate(ARMS):
        values = [value for c in SCALES for value in scalars(measurements, f"{name}_{c:g}")]
        color = ORANGE if name in MUST_DIFFER else BLUE
        axis.plot(
            [max(value, 1e-17) for value in values], [row] * len(values), "o", ms=4, alpha=0.6, mec="none", color=color
        )
    for threshold in (EXACT, CONTRAST):
        axis.axvline(threshold, color=GREY, lw=0.8, ls="--")
    axis.set_xscale("log")
    axis.set_yticks(range(len(ARMS)), [arm.label for arm in ARMS.values()])
    axis.invert_yaxis()
    axis.set_xlabel("largest difference of a logit; dashed: thresholds")
    return figure


CLAIM = Claim(
    name="intrinsic_lr_rescaling",
    source="004: Li and Arora, blog post on normalized nets and the intrinsic LR (2020), “So what’s really going on?”",
    sentence=(
        "our ExpLR paper Li&Arora, 2019) gave mathematical proof that if WD* LR, i.e., λη is fixed, then the effect of"
        " changing LR on the dynamics is equivalent to rescaling the initial parameters."
    ),
    threshold=(
        f"Twins at c = {' and '.join(f'{c:g}' for c in SCALES)}, {STEPS} steps of SGD on a BN MLP with a fixed output"
        f" layer. SUPPORTED if no logit differs by more than {EXACT:.0e} in float64 without eps, and at torch's"
        f" defaults (float32, eps 1e-5) the 95 % interval of the difference in test accuracy lies within"
        f" {100 * POINTS:g} point for each c; PARTLY if only the first; REFUTED if not even that; INCONCLUSIVE if"
        f" without rescaling the start they differ by less than {CONTRAST:g}."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
