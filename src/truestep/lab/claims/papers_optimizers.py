r"""Optimizers of papers against SGD with momentum and Adam: as papers compare, and as one should.

Five newer rules with their default lrs: NAdam, RAdam, Signum, AdaBelief, Lion. The papers' way: the new rule's lr is
tuned, the old ones' are the defaults. The actual comparison: everybody's lr is tuned on a grid of the same width and
spacing, or everybody's step has one length, tuned as well, in one of two norms: l2 over all weights, or relative to
each tensor's own. Each is compared with the better of the two old rules, by the log of the training loss at the end of
a linear decay. An lr is chosen for a seed by the other seeds, so that nobody is lucky.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import exp
from typing import TYPE_CHECKING, Final, NamedTuple

from torch.optim import SGD, Adam, NAdam, RAdam

from truestep.compare import AdaBelief, Lion, SignSGD
from truestep.compare._factory import OptimizerFactory
from truestep.compare.problems import Problem, digits_mlp
from truestep.compare.training import Matched, Replica, train
from truestep.lab._claim import Claim, Judgement, Measurement, Verdict, curves
from truestep.lab._figure import BLUE, GREY, ORANGE, panels
from truestep.lab._interval import Interval, t_interval
from truestep.lab._tuned import Tuned, tuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS: Final = 300
CAP: Final = 10.0  # of a log loss: that of a run that diverged
BETTER: Final = 0.0  # nats: out-performs is below, under-performs above, with the whole interval


class Rule(NamedTuple):
    """An optimizer: what it is called, its default lr, how many quarter decades from it the grid begins."""

    label: str
    factory: OptimizerFactory
    lr: float
    first: int


RULES: Final = {
    "sgd": Rule("SGD, momentum .9", partial(SGD, lr=1e-3, momentum=0.9), 1e-3, 0),
    "adam": Rule("Adam", partial(Adam, lr=1e-3), 1e-3, -2),
    "nadam": Rule("NAdam", partial(NAdam, lr=2e-3), 2e-3, -2),
    "radam": Rule("RAdam", partial(RAdam, lr=1e-3), 1e-3, 0),
    "signum": Rule("Signum", partial(SignSGD, lr=1e-3, momentum=0.9), 1e-3, -2),
    "belief": Rule("AdaBelief", partial(AdaBelief, lr=1e-3), 1e-3, -2),
    "lion": Rule("Lion", partial(Lion, lr=1e-4), 1e-4, 0),
}
OLD: Final = ("sgd", "adam")
NEW: Final = tuple(name for name in RULES if name not in OLD)
WIDTH: Final = 16  # values of each grid, a quarter of a decade apart
LENGTHS: Final = {"l2": 0.03, "relative": 0.003}  # the first of each grid
CONTROLS: Final[dict[str, Matched | None]] = {
    "lr": None,
    "l2": Matched(LENGTHS["l2"], "l2", "global"),
    "relative": Matched(LENGTHS["relative"], "relative", "tensor"),
}
WAYS: Final[dict[str, str]] = {
    "paper": "new tuned, old at default",
    "default": "all at default lrs",
    "lr": "all tuned",
    "l2": "steps matched, l2",
    "relative": "steps matched, relative",
}
FAIR: Final[tuple[str, ...]] = ("lr", "l2", "relative")


def grid(rule: Rule, control: str) -> list[float]:
    """Multiples of the default lr, or of the first length.

    Example:
        >>> grid(RULES["adam"], "lr")[:3]
        [0.31622776601683794, 0.5623413251903491, 1.0]
    """
    first = rule.first if control == "lr" else 0
    return [10 ** ((first + k) / 4) for k in range(WIDTH)]


def run(seed: int, device: str, *, steps: int = STEPS) -> Measurement:
    """For each rule and control, the log of the final training loss at each value of the grid."""
    problem = digits_mlp(device=device)
    out: Measurement = {}
    for name, rule in RULES.items():
        for control in CONTROLS:
            out[f"{name}_{control}"] = final(problem, rule, control, seed, steps)
    return out


def final(problem: Problem, rule: Rule, control: str, seed: int, steps: int) -> list[float]:
    """Log losses on the probe after a linear decay."""
    replicas = [Replica(seed, seed, value) for value in grid(rule, control)]
    found = train(problem, rule.factory, replicas, steps=steps, points=1, schedule="linear", control=CONTROLS[control])
    return found.losses[:, -1].log().nan_to_num(nan=CAP, posinf=CAP).clamp(max=CAP).tolist()


def at_default(measurements: Sequence[Measurement], name: str) -> list[float]:
    """Log loss of each seed at the default lr."""
    return [row[-RULES[name].first] for row in curves(measurements, f"{name}_lr")]


def losses(measurements: Sequence[Measurement], way: str, name: str) -> list[float]:
    """Log loss of each seed under one way to compare."""
    if way == "default" or (way == "paper" and name in OLD):
        return at_default(measurements, name)
    return best(measurements, name, "lr" if way == "paper" else way).losses


def better_old(measurements: Sequence[Measurement], way: str) -> str:
    """Which of the old rules is better."""
    return min(OLD, key=lambda name: sum(losses(measurements, way, name)))


def against_old(measurements: Sequence[Measurement], way: str) -> dict[str, Interval]:
    """Log loss of each new rule over that of the better old one."""
    old = losses(measurements, way, better_old(measurements, way))
    pairs = {name: zip(losses(measurements, way, name), old, strict=True) for name in NEW}
    return {name: t_interval([x - y for x, y in each]) for name, each in pairs.items()}


def best(measurements: Sequence[Measurement], name: str, control: str) -> Tuned:
    """The rule at its best value of a grid."""
    return tuned(curves(measurements, f"{name}_{control}"))


def judge(measurements: Sequence[Measurement]) -> Judgement:
    """Who out-performs and who under-performs, under each way to compare."""
    gap = {way: against_old(measurements, way) for way in WAYS}
    wins = {way: sum(i.high < BETTER for i in gap[way].values()) for way in WAYS}
    defeats = {way: sum(i.low > BETTER for i in gap[way].values()) for way in WAYS}
    old = {way: better_old(measurements, way) for way in WAYS}
    half = len(NEW) / 2
    if wins["paper"] < len(NEW):
        verdict = Verdict.INCONCLUSIVE
    elif all(defeats[way] > half for way in FAIR):
        verdict = Verdict.SUPPORTED
    elif all(wins[way] > half for way in FAIR):
        verdict = Verdict.REFUTED
    elif any(defeats[way] > half for way in FAIR) or all(wins[way] < half for way in FAIR):
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.INCONCLUSIVE
    edges = [(name, control) for name in RULES for control in CONTROLS if best(measurements, name, control).at_edge]
    intervals = {f"{way}_{name}": interval for way in WAYS for name, interval in gap[way].items()}
    return Judgement(verdict, _told(gap, wins, defeats, old, edges), intervals, {"at_edge": float(len(edges))})


def _told(
    gap: Mapping[str, Mapping[str, Interval]],
    wins: Mapping[str, int],
    defeats: Mapping[str, int],
    old: Mapping[str, str],
    edges: Sequence[tuple[str, str]],
) -> str:
    """Way by way, the final loss of each new rule in units of the better old one's."""
    told = "; ".join(
        f"{WAYS[way]}: {wins[way]} of {len(NEW)} out-perform {RULES[old[way]].label}, {defeats[way]} under-perform ("
        + ", ".join(f"{RULES[name].label} {_times(gap[way][name].mean)}" for name in NEW)
        + ")"
        for way in WAYS
    )
    edge = ", ".join(f"{RULES[name].label} ({WAYS[control]})" for name, control in edges) or "nobody"
    return (
        f"Final training loss in units of that of the better of SGD with momentum and Adam: {told}. So out-perform"
        f" {wins['paper']} against default lrs, {wins['lr']} when all are tuned, {wins['l2']}"
        f" (l2) and {wins['relative']} (relative) where steps are matched. Best at the edge of its grid: {edge}."
    )


def _times(log: float) -> str:
    return f"{exp(log):.2g}x" if exp(log) < 99.5 else f"{exp(log):.0f}x"


def plot(measurements: Sequence[Measurement]) -> Figure:
    """The loss of each new rule over that of the better old one, way by way."""
    figure, (axis,) = panels()
    for i, way in enumerate(WAYS):
        for k, (name, interval) in enumerate(against_old(measurements, way).items()):
            color = GREY if interval.low <= BETTER <= interval.high else BLUE if interval.high < BETTER else ORANGE
            place = i + 0.12 * (k - (len(NEW) - 1) / 2)
            axis.plot([interval.low, interval.high], [place, place], color=color, lw=1)
            axis.plot(interval.mean, place, "o", color=color, ms=3)
            axis.annotate(RULES[name].label, (interval.high, place), xytext=(3, -2), textcoords="offset points", size=5)
    axis.axvline(0, color="black", lw=0.6)
    axis.set_yticks(range(len(WAYS)), list(WAYS.values()))
    axis.invert_yaxis()
    axis.set(xlabel="log of the loss over the better of SGD's and Adam's, nats", title="blue: out-performs")
    return figure


CLAIM = Claim(
    name="papers_optimizers",
    source="000: The case for unit-normalized loss, section “But why?”",
    sentence=(
        "If you have ever read an optimizer paper you'll notice that they always out-perform SGD and Adam, while in an"
        " actual comparison they typically under-perform."
    ),
    threshold=(
        f"Digits, {STEPS} steps, {len(NEW)} newer optimizers against the better of SGD with momentum and Adam, by the"
        f" final training loss. SUPPORTED if all out-perform at a tuned lr against default lrs, and more than half"
        f" under-perform when all are tuned, when steps are matched in l2, and in the relative norm; PARTLY if more"
        f" than half do under one of the three, or less than half out-perform under each; REFUTED if more than half"
        f" out-perform under all three; INCONCLUSIVE otherwise, or if not all out-perform default lrs."
    ),
    run=run,
    judge=judge,
    plot=plot,
    seeds=8,
)
