r"""Under unit loss the schedule does what you would expect, whatever the scaling of the loss function.

Two sentences in one. The scaling: dividing by the loss takes every factor out, and so does dividing by a frozen
reference, the mean of the first losses. The schedule: a step of plain SGD is :math:`\eta_t \|\nabla L\| / L`, and
follows :math:`\eta_t` alone only as far as :math:`\|\nabla L\| / L` stays put. Under cross-entropy it is bounded; for a
squared error it grows as :math:`1 / \sqrt{L}`, so that a constant lr stalls where plain SGD converges, and a decay has
to make up for it. Noiseless regression is the harder of the two: its loss goes to zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREEN, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._training import (
    Moment,
    Problem,
    Scale,
    Schedule,
    constant,
    cosine,
    digits_problem,
    finite_accuracy,
    flat_gradient,
    flat_weights,
    mean_loss,
    plain_mlp,
    plateau,
    raw,
    reference,
    train,
    unit,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS: Final = (64,)
SAMPLES, INPUTS, OUTPUTS = 512, 20, 10  # of the noiseless regression
EPOCHS: Final = 40
LRS: Final = {"digits": (0.03, 0.1, 0.3, 1.0, 3.0), "regression": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)}
SCALES: Final = (1e-8, 1.0, 1e8)  # of the loss function
SCALE_LR: Final = 0.1
SCALE_EPOCHS: Final = 15
FIRST: Final = 20  # batches of the frozen reference
TINY: Final = 1e-32  # what a loss of zero is drawn as
NONE: Final = 1e300  # how far apart weights are of which some are no numbers

SAME: Final = 1e-5  # distance of the final weights over the distance moved that counts as none
STEADY: Final = 3.0  # 95th over 5th percentile of ‖step‖ / lr that counts as "follows the lr"
REACHES: Final = 2.0  # a final training loss of at most so many times that of the raw loss counts as converged
FLOOR: Final = 1e-12  # and so does one below this share of the loss at the start

RULES: Final[dict[str, Callable[[], Scale]]] = {
    "raw": lambda: raw,
    "unit": lambda: unit,
    "reference": lambda: reference(FIRST),
}
SCHEDULES: Final[dict[str, Schedule]] = {"constant": constant, "plateau": plateau, "cosine": cosine}
DECAYS: Final = ("plateau", "cosine")
PROBLEMS: Final = ("digits", "regression")


def pose(name: str, seed: int, device: str) -> tuple[Problem, nn.Sequential, torch.Generator]:
    """A problem, its model at the start, and the generator of the batches."""
    generator = torch.Generator().manual_seed(seed)
    if name == "digits":
        problem, _ = digits_problem(device, torch.float64)
        return problem, plain_mlp(WIDTHS, generator, device, torch.float64), generator
    x = torch.randn(SAMPLES, INPUTS, generator=generator, dtype=torch.float64).to(device)
    teacher = torch.randn(INPUTS, OUTPUTS, generator=generator, dtype=torch.float64).to(device) / INPUTS**0.5
    student = nn.Linear(INPUTS, OUTPUTS, bias=False, dtype=torch.float64, device=device)
    nn.init.zeros_(student.weight)
    return Problem(x, x @ teacher, squared_error), nn.Sequential(student), generator


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean over outputs of the squared residual, for each sample."""
    return (output - target).square().mean(1)


def epochs(training: Iterator[Moment], model: nn.Module) -> tuple[list[float], list[float]]:
    """Exhaust a training: the mean loss of each epoch, and of each step its length over its lr."""
    losses: dict[int, list[float]] = {}
    lengths: list[float] = []
    for moment in training:
        losses.setdefault(moment.epoch, []).append(moment.loss.item())
        lengths.append(flat_gradient(model).norm().item())
    return [sum(each) / len(each) for each in losses.values()], lengths


def best(problem_name: str, rule: str, schedule: Schedule, seed: int, device: str, count: int) -> Measurement:
    """The lr with the lowest final training loss: that loss, its curve, the test accuracy, the spread of lengths."""
    found: list[Measurement] = []
    for lr in LRS[problem_name]:
        problem, model, generator = pose(problem_name, seed, device)
        start = mean_loss(model, problem)
        training = train(
            model, problem, RULES[rule](), lr=lr, schedule=schedule, epochs=count, batch_size=64, generator=generator
        )
        curve, lengths = epochs(training, model)
        final = mean_loss(model, problem) / start
        if not math.isfinite(final):
            continue
        low, high = torch.tensor(lengths).quantile(torch.tensor([0.05, 0.95])).tolist()
        one: Measurement = {"loss": final, "lr": lr, "spread": high / max(low, TINY)}
        if problem_name == "digits":
            _, data = digits_problem(device, torch.float64)
            one["accuracy"] = finite_accuracy(model, data)
        found.append(one | {"curve": [max(loss / start, TINY) for loss in curve]})
    return min(found, key=lambda one: one["loss"])  # pyright: ignore[reportArgumentType] (a number)


def times(factor: float, loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor) -> Tensor:
    """The loss of each sample, times a factor."""
    return factor * loss(output, target)


def apart(rule: str, seed: int, device: str, count: int) -> float:
    """Largest distance between the final weights under differently scaled losses, over the distance moved."""
    start = flat_weights(pose("digits", seed, device)[1])
    ends: list[Tensor] = []
    for scale in SCALES:
        problem, model, generator = pose("digits", seed, device)
        scaled = problem._replace(loss=partial(times, scale, problem.loss))
        for _ in train(model, scaled, RULES[rule](), lr=SCALE_LR, schedule=cosine, epochs=count, generator=generator):
            pass
        ends.append(flat_weights(model))
    moved = (ends[1] - start).norm()
    worst = torch.stack([(end - ends[1]).norm() / moved for end in ends]).max().item()  # nan where one is
    return min(worst, NONE) if math.isfinite(worst) else NONE


def run(seed: int, device: str, *, count: int = EPOCHS, scale_epochs: int = SCALE_EPOCHS) -> Measurement:
    """Each problem under each rule and schedule at its best lr; each rule under differently scaled losses."""
    out: Measurement = {}
    for rule in RULES:
        out[f"{rule}_apart"] = apart(rule, seed, device, scale_epochs)
        for problem_name in PROBLEMS:
            for name, schedule in SCHEDULES.items():
                found = best(problem_name, rule, schedule, seed, device, count)
                out |= {f"{problem_name}_{rule}_{name}_{key}": value for key, value in found.items()}
    return out


def reaches(measurements: Sequence[Measurement], problem: str, schedule: str) -> tuple[Interval, bool, bool]:
    """log10 of unit's final loss over that of the raw loss: the interval, whether it is reached, whether missed."""
    losses = [scalars(measurements, f"{problem}_{rule}_{schedule}_loss") for rule in ("unit", "raw")]
    logs = t_interval([math.log10(max(u, FLOOR)) - math.log10(max(r, FLOOR)) for u, r in zip(*losses, strict=True)])
    return logs, logs.high <= math.log10(REACHES), logs.low > math.log10(REACHES)


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Invariance first; then convergence under the two decays; then whether a step's length follows its lr."""
    apart = {rule: max(scalars(measurements, f"{rule}_apart")) for rule in RULES}
    tail = {(p, s): reaches(measurements, p, s) for p in PROBLEMS for s in SCHEDULES}
    spread = {p: t_interval(scalars(measurements, f"{p}_unit_cosine_spread")) for p in PROBLEMS}
    decays = [tail[p, s] for p in PROBLEMS for s in DECAYS]
    if apart["raw"] <= SAME:
        verdict = Verdict.INCONCLUSIVE
    elif apart["unit"] > SAME or all(missed for _, _, missed in decays):
        verdict = Verdict.REFUTED
    elif all(reached for _, reached, _ in decays) and all(s.high <= STEADY for s in spread.values()):
        verdict = Verdict.SUPPORTED
    elif any(reached for _, reached, _ in decays):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    intervals = {f"{p}_{s}_unit_over_raw_log10": tail[p, s][0] for p in PROBLEMS for s in SCHEDULES}
    for p in PROBLEMS:
        intervals |= {f"{p}_unit_spread": spread[p]}
        intervals |= {f"{p}_raw_spread": t_interval(scalars(measurements, f"{p}_raw_cosine_spread"))}
    for rule in RULES:
        for s in SCHEDULES:
            intervals[f"{rule}_{s}_accuracy"] = t_interval(scalars(measurements, f"digits_{rule}_{s}_accuracy"))
    return Judgement(verdict, reason(apart, intervals), intervals, {f"{r}_apart": a for r, a in apart.items()})


def reason(apart: dict[str, float], intervals: dict[str, Interval]) -> str:
    """The sentence with the numbers."""
    factor = {s: intervals[f"digits_{s}_unit_over_raw_log10"].mean for s in SCHEDULES}
    decades = {s: f"{intervals[f'regression_{s}_unit_over_raw_log10'].mean:.1f}" for s in SCHEDULES}
    accuracy = {s: f"{100 * intervals[f'unit_{s}_accuracy'].mean:.1f} %" for s in SCHEDULES}
    plain = {s: f"{100 * intervals[f'raw_{s}_accuracy'].mean:.1f} %" for s in SCHEDULES}
    told = {s: f"{10**f:.2g}" for s, f in factor.items()}
    return (
        f"The loss's scaling is out: weights {apart['unit']:.0e} of the way apart for c from 1e-8 to 1e8 (a frozen"
        f" reference: {apart['reference']:.0e}). Final training loss over that of the raw loss, each at its best lr: on"
        f" digits {told['constant']} at a constant lr, {told['plateau']} with ReduceLROnPlateau, {told['cosine']} with"
        f" cosine (test {accuracy['constant']}, {accuracy['plateau']}, {accuracy['cosine']}; raw {plain['constant']},"
        f" {plain['plateau']}, {plain['cosine']}); on noiseless regression {decades['constant']},"
        f" {decades['plateau']} and {decades['cosine']} decades above. ‖step‖/lr varies by the factor"
        f" {intervals['digits_unit_spread'].mean:.2g} and {intervals['regression_unit_spread'].mean:.2g} under cosine"
        f" (raw: {intervals['digits_raw_spread'].mean:.2g} and {intervals['regression_raw_spread'].mean:.2g})."
    )


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Median over seeds of the training loss by epoch, for each rule and schedule at its best lr."""
    figure, axes = panels(2)
    dashes = {"constant": ":", "plateau": "--", "cosine": "-"}
    titles = {"digits": "cross-entropy, digits", "regression": "squared error, noiseless regression"}
    for axis, problem in zip(axes, PROBLEMS, strict=True):
        for color, rule in zip((BLUE, ORANGE, GREEN), RULES, strict=True):
            for schedule, dash in dashes.items():
                seeds = torch.tensor(curves(measurements, f"{problem}_{rule}_{schedule}_curve"))  # [seeds, epochs]
                curve = seeds.median(0).values
                axis.plot(range(1, len(curve) + 1), curve, dash, color=color, lw=1, label=f"{rule}, {schedule}")
        axis.set(yscale="log", xlabel="epoch", ylabel="training loss / at the start, median", title=titles[problem])
        axis.grid(color=GREY, alpha=0.2, lw=0.5)
    axes[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


CLAIM = Claim(
    name="unit_loss_schedule",
    source="000: The case for unit-normalized loss, section “Wait, doesn't this mess up current training schemes?”",
    sentence=(
        "the schedule now actually does what you'd expect rather than it being modulated by the scaling of your loss"
        " function"
    ),
    threshold=(
        f"SUPPORTED if weights trained on c·L end within {SAME:.0e} of the distance moved for c from 1e-8 to 1e8, the"
        f" final training loss under ReduceLROnPlateau and under cosine is at most {REACHES} times the raw loss's (or"
        f" below {FLOOR:.0e} of the start), each at its best lr, on digits and on noiseless regression, and ‖step‖ / lr"
        f" varies by at most {STEADY} (95th over 5th percentile, cosine); PARTLY if the first holds and one decay"
        f" converges on one problem; REFUTED if the first fails or no decay converges on either; INCONCLUSIVE between,"
        f" or if the raw loss is as insensitive to c."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=5,
)
