r"""Whether a loss that is divided by itself makes optimizers comparable.

Two things stand in the way of a comparison, says the source: the scale of the loss, and that steps depend on the
progress made. The first: seven optimizers are tuned, and trained again at the same lrs on the loss times 2⁻¹³ and 2¹³,
powers of two so that rounding has no say; comparable are results that do not change. The second: how far the tuned
optimizers' final losses are apart, as the standard deviation of their logs, on the raw loss and on the loss divided by
itself. What that costs or gains in the final loss is told besides. Digits, linear decay of the lr.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import exp, log
from statistics import pstdev
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from torch.optim import SGD, Adam, RMSprop

from truestep.compare import AdaBelief, Lion, Problem, SignSGD
from truestep.compare._factory import OptimizerFactory
from truestep.compare.problems import digits_mlp
from truestep.compare.training import Replica, train
from truestep.core._mean_loss import mean_loss
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves, scalars
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._tuned import Tuned, tuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS: Final = 300
WIDTH: Final = 13  # lrs of each grid, a quarter of a decade apart
SCALES: Final = (2.0**-13, 2.0**13)  # of the loss
CAP: Final = 10.0  # of a log loss: that of a run that diverged

SAME: Final = 0.05  # nats: a final loss that did not change
CLOSER: Final = 0.5  # the spread of the final losses over that of the raw loss: comparable


class Rule(NamedTuple):
    """An optimizer, and the lr that its grid is in the middle of."""

    label: str
    factory: OptimizerFactory


RULES: Final = {
    "sgd": Rule("SGD", partial(SGD, lr=0.3)),
    "momentum": Rule("SGD, momentum .9", partial(SGD, lr=0.1, momentum=0.9)),
    "rmsprop": Rule("RMSprop", partial(RMSprop, lr=3e-3)),
    "adam": Rule("Adam", partial(Adam, lr=1e-2)),
    "belief": Rule("AdaBelief", partial(AdaBelief, lr=1e-2)),
    "signum": Rule("Signum", partial(SignSGD, lr=3e-3, momentum=0.9)),
    "lion": Rule("Lion", partial(Lion, lr=3e-3)),
}
LOSSES: Final = {"raw": False, "unit": True}
MULTIPLIERS: Final = tuple(10 ** ((k - WIDTH // 2) / 4) for k in range(WIDTH))


def times(factor: float, problem: Problem, model: Any, batch: Any) -> Any:
    """A problem's mean loss, times a factor."""
    loss, _ = mean_loss(problem.loss_fn(model, batch))
    return factor * loss


def final(problem: Problem, rule: Rule, multipliers: Sequence[float], seed: int, steps: int, unit: bool) -> list[float]:
    """Logs of the final losses on the probe after a linear decay."""
    replicas = [Replica(seed, seed, value) for value in multipliers]
    found = train(problem, rule.factory, replicas, steps=steps, points=1, schedule="linear", unit_loss=unit)
    return found.losses[:, -1].log().nan_to_num(nan=CAP, posinf=CAP).clamp(max=CAP).tolist()


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """For each optimizer and loss the final losses over the grid; at the best, the change with the loss's scale."""
    problem = digits_mlp(device=device)
    scaled = [replace(problem, loss_fn=partial(times, scale, problem)) for scale in SCALES]
    out: Measurement = {}
    for name, rule in RULES.items():
        for loss, unit in LOSSES.items():
            row = final(problem, rule, MULTIPLIERS, seed, steps, unit)
            at = MULTIPLIERS[row.index(min(row))]
            alone, *others = (  # one replica each time, as a stack of them rounds in another way
                final(each, rule, (at,), seed, steps, unit)[0] - log(scale)
                for each, scale in zip((problem, *scaled), (1.0, *SCALES), strict=True)
            )
            out |= {f"{name}_{loss}": row, f"{name}_{loss}_change": max(abs(other - alone) for other in others)}
    return out


def best(measurements: Sequence[Measurement], name: str, loss: str) -> Tuned:
    """An optimizer at its best lr."""
    return tuned(curves(measurements, f"{name}_{loss}"))


def spread(measurements: Sequence[Measurement], loss: str) -> list[float]:
    """Standard deviation over the tuned optimizers of the log of the final loss, seed by seed."""
    losses = [best(measurements, name, loss).losses for name in RULES]
    return [pstdev(seed) for seed in zip(*losses, strict=True)]


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """The scale first, then how far the tuned optimizers are apart."""
    change = {
        (name, loss): t_interval(scalars(measurements, f"{name}_{loss}_change")) for name in RULES for loss in LOSSES
    }
    spreads = {loss: spread(measurements, loss) for loss in LOSSES}
    ratio = t_interval([u / r for u, r in zip(spreads["unit"], spreads["raw"], strict=True)])
    cost = {name: _cost(measurements, name) for name in RULES}
    blind = all(change[name, "unit"].high <= SAME for name in RULES)
    sees = any(change[name, "unit"].low > SAME for name in RULES)
    if all(change[name, "raw"].low <= SAME for name in RULES):
        verdict = Verdict.INCONCLUSIVE
    elif blind and ratio.high <= CLOSER:
        verdict = Verdict.SUPPORTED
    elif sees and ratio.low > CLOSER:
        verdict = Verdict.REFUTED
    elif (blind and ratio.low > CLOSER) or (sees and ratio.high <= CLOSER):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    intervals = {"spread_ratio": ratio} | {f"{loss}_spread": t_interval(spreads[loss]) for loss in LOSSES}
    intervals |= {f"{name}_{loss}_change": each for (name, loss), each in change.items()}
    intervals |= {f"{name}_unit_over_raw": each for name, each in cost.items()}
    edges = sum(best(measurements, name, loss).at_edge for name in RULES for loss in LOSSES)
    return Judgement(verdict, _told(change, intervals, cost), intervals, {"at_edge": float(edges)})


def _told(change: dict[tuple[str, str], Interval], intervals: dict[str, Interval], cost: dict[str, Interval]) -> str:
    moved = ", ".join(f"{RULES[name].label} {change[name, 'raw'].mean:.1g}" for name in RULES)
    unit = max(change[name, "unit"].mean for name in RULES)
    paid = ", ".join(f"{RULES[name].label} {exp(each.mean):.2g}x" for name, each in cost.items())
    return (
        f"The loss times 2⁻¹³ or 2¹³ changes the log of the final loss by at most {unit:.1g} nats under unit loss;"
        f" under the raw loss, at the same lr, by {moved} nats (adaptive rules feel the scale through eps alone, sign"
        f" rules not at all). The tuned optimizers are {intervals['raw_spread']} nats apart on the raw loss"
        f" (standard deviation), {intervals['unit_spread']} under unit loss, {intervals['spread_ratio']} times as far."
        f" Final loss under unit loss over that under the raw loss: {paid}."
    )


def _cost(measurements: Sequence[Measurement], name: str) -> Interval:
    unit, raw = (best(measurements, name, loss).losses for loss in ("unit", "raw"))
    return t_interval([u - r for u, r in zip(unit, raw, strict=True)])


def plot(measurements: Sequence[Measurement]) -> Figure:
    """Left: the tuned final loss of each optimizer; right: how far the loss's scale moves it."""
    figure, (left, right) = panels(2)
    for loss, color in (("raw", ORANGE), ("unit", BLUE)):
        for i, name in enumerate(RULES):
            losses = [exp(x) for x in best(measurements, name, loss).losses]
            left.plot(losses, [i] * len(losses), "o", color=color, ms=3, label=None if i else f"{loss} loss")
            change = max(scalars(measurements, f"{name}_{loss}_change"))
            right.plot(max(change, 1e-8), i, "o", color=color, ms=4)
    for axis in (left, right):
        axis.set_yticks(range(len(RULES)), [rule.label for rule in RULES.values()])
        axis.invert_yaxis()
        axis.set(xscale="log")
    right.axvline(SAME, color=GREY, ls="--", lw=0.8)
    left.set(xlabel="final training loss, tuned, one dot a seed")
    right.set(xlabel="change of its log, nats, loss times 2⁻¹³ or 2¹³")
    left.legend()
    return figure


CLAIM = Claim(
    name="unit_loss_optimizers",
    source="000: The case for unit-normalized loss, section “But why?”",
    sentence=(
        "I identified loss scaling and batch scaling as key factors preventing us from doing sound training comparisons"
        " and exploration."
    ),
    threshold=(
        f"Digits, {len(RULES)} optimizers, tuned, {STEPS} steps, linear decay. SUPPORTED if under unit loss the log of"
        f" no final loss changes by more than {SAME:g} with the loss times 2⁻¹³ or 2¹³, and the optimizers' final"
        f" losses are at most {CLOSER:g} times as far apart as under the raw loss; PARTLY if surely one of the two and"
        f" surely not the other; REFUTED if surely neither; INCONCLUSIVE otherwise, or if no raw loss's result changes."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=8,
)
