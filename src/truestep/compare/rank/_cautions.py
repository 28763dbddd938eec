"""What a ranking depends on, in sentences: reasons to doubt that the first is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Final

from jaxtyping import Float64
from torch import Tensor

from truestep.compare.rank._protocol import Protocol

AGREE: Final = 0.7  # Kendall's tau below which two orders are told to differ
SURE: Final = 0.975  # probability above which the order of two neighbours is settled


def list_cautions(
    protocols: Sequence[Protocol], tau: Float64[Tensor, "n n"], half_tau: Mapping[str, float], seeds: int
) -> tuple[str, ...]:
    """All warnings, the gravest first."""
    found = [sentence for each in protocols for sentence in diverged(each) + at_the_edge(each)]
    found += norm_decides(protocols, tau)
    for each in protocols:
        found += budget_decides(each) + changes_before_the_end(each, half_tau[each.name]) + not_settled(each, seeds)
    return tuple(found)


def diverged(protocol: Protocol) -> list[str]:
    """Optimizers that diverged for some seed, at the best of their values."""
    shares = {name: share for name, share in protocol.diverged.items() if share > 0}
    return [f"{protocol.name}: {share:.0%} of the runs of {name} diverged" for name, share in shares.items()]


def at_the_edge(protocol: Protocol) -> list[str]:
    """Optimizers whose best value is the last of their grid: a wider one may find a better."""
    edges = [name for name in protocol.grid if protocol.at_edge(name)]
    ends = [f"{name} ({protocol.best[name]:.3g})" for name in edges]
    where = f"the best {protocol.knob} tried lies on the grid's edge for {_listed(ends)}: try a wider `grid`"
    return [f"{protocol.name}: {where}"] if ends else []


def norm_decides(protocols: Sequence[Protocol], tau: Float64[Tensor, "n n"]) -> list[str]:
    """Norms in which steps of equal length give different orders."""
    matched = [i for i, each in enumerate(protocols) if each.knob == "length"]
    found = list[str]()
    for i, j in combinations(matched, 2):
        one, other = protocols[i], protocols[j]
        if float(tau[i, j]) < AGREE:
            leaders = f"{one.winner} leads in {one.name}, {other.winner} in {other.name}"
            found.append(f"the order depends on the norm of the step: {leaders}, Kendall's tau {float(tau[i, j]):.2f}")
    return found


def budget_decides(protocol: Protocol) -> list[str]:
    """Winners that are others where fewer values may be tried."""
    budgets = list(next(iter(protocol.budget.values()), {}))
    winners = {k: min(protocol.budget, key=lambda name, k=k: protocol.budget[name][k]) for k in budgets}
    turns = [k for i, k in enumerate(budgets) if i == 0 or winners[k] != winners[budgets[i - 1]]]
    told = ", ".join(f"{winners[k]} from {k} on" for k in turns)
    return [f"{protocol.name}: the winner depends on the number of values tried: {told}"] if len(turns) > 1 else []


def changes_before_the_end(protocol: Protocol, half_tau: float) -> list[str]:
    """Whether half of training would have given another order."""
    told = f"{protocol.name}: the order at half of training is another than at its end, Kendall's tau {half_tau:.2f}"
    return [told] if half_tau < AGREE else []  # nan: all are equal


def not_settled(protocol: Protocol, seeds: int) -> list[str]:
    """Neighbours that the seeds cannot tell apart; a row of them is one group, whose ends may be far apart."""
    names, order = list(protocol.rank), protocol.order
    groups = [order[:1]]
    for one, other in pairwise(order):
        if float(protocol.better[names.index(one), names.index(other)]) < SURE:
            groups[-1].append(other)
        else:
            groups.append([other])
    unsettled = [" / ".join(group) for group in groups if len(group) > 1]
    return [f"{protocol.name}: {seeds} seeds do not settle {_listed(unsettled)}"] if unsettled else []


def _listed(words: Sequence[str]) -> str:
    """Commas, and "and" before the last.

    Example:
        >>> _listed(["sgd", "adam", "lion"])
        'sgd, adam and lion'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
