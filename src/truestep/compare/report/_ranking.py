"""A ranking as a section: its warnings, the order under each protocol, and how sure it is."""

from __future__ import annotations

from functools import partial
from typing import Final

from truestep.compare.rank import Protocol, Ranking
from truestep.compare.report._ranking_figures import loss_against_knob, order_agreement, rank_probabilities
from truestep.compare.report._section import Panel, Section, Table, words

LEAD: Final = (
    "The same seeds and the same order of the data for all. Losses are geometric means over seeds at the end of "
    "training. Default lr: each as it "
    "comes. Tuned lr: each at the best of its grid. Matched: all take steps of equal length in the norm named, each at "
    "its own best length. Unit loss: the gradient of log L instead of L, tuned. No protocol is neutral: each method is "
    "steepest descent in a norm of its own. So look at where the orders agree (Kendall's tau, 1 for the same order, "
    "−1 for the reverse)."
)
KNOB: Final = (
    "Geometric means over the seeds. The large point is the value taken; at an end of its line, the best may lie "
    "beyond. Losses far above those of the smallest value lie outside."
)
SURE: Final = "How often the optimizer has this rank when the seeds, and the values tried in tuning, are drawn anew."
TAU: Final = "1: two protocols give the same order; 0: no more alike than by chance; −1: the reverse."


def ranking_section(ranking: Ranking) -> Section:
    """Tables of ranks, of best-of-k and of agreement; figures of loss against lr, probabilities and tau."""
    tables = [*_ranks(ranking), _agreement(ranking), *_budgets(ranking), *_diverged(ranking)]
    places = {name: place for place, name in enumerate(ranking.names)}
    swept = [p for p in ranking.protocols if any(len(values) > 1 for values in p.grid.values())]
    panels = [
        Panel(f"knob-{number}", f"{p.name}: loss at the end", KNOB, partial(loss_against_knob, p, places))
        for number, p in enumerate(swept)
    ]
    panels += [
        Panel(f"probability-{number}", f"{p.name}: probability of each rank", SURE, partial(rank_probabilities, p))
        for number, p in enumerate(ranking.protocols)
    ]
    panels.append(Panel("tau-0", "Agreement of the orders: Kendall's tau", TAU, partial(order_agreement, ranking)))
    return Section("ranking", "The order, and how much it depends on the question", LEAD, tuple(tables), tuple(panels),
                   tuple(ranking.warnings), places)  # fmt: skip


def _ranks(ranking: Ranking) -> list[Table]:
    """A row for each optimizer, in the order of the first tuned protocol, a column for each protocol."""
    lead = next((p for p in ranking.protocols if p.name.startswith("tuned")), ranking.protocols[0])
    head = ("optimizer", *(p.name for p in ranking.protocols))
    ranks = [(name, *(f"{p.rank[name]}. {words(p.loss[name].mean)}" for p in ranking.protocols)) for name in lead.order]
    where = [(name, *(_where(p, name) for p in ranking.protocols)) for name in lead.order]
    return [
        Table(head, tuple(ranks), "Rank and loss at the end"),
        Table(head, tuple(where), "95 % interval of that loss, and the lr or step length that it was reached at"),
    ]


def _where(protocol: Protocol, name: str) -> str:
    loss = protocol.loss[name]
    return f"[{words(loss.low)}, {words(loss.high)}] at {words(protocol.best[name])}"


def _agreement(ranking: Ranking) -> Table:
    names = [p.name for p in ranking.protocols]
    rows = [
        (name, *(words(round(value, 2)) for value in row), words(round(float(ranking.half_tau[name]), 2)))
        for name, row in zip(names, ranking.tau.tolist(), strict=True)
    ]
    return Table(("tau", *names, "half and end of training"), tuple(rows), "Agreement of the orders: Kendall's tau")


def _budgets(ranking: Ranking) -> list[Table]:
    """Expected best loss of k random draws from the grid, of the first protocol that is tuned."""
    for p in ranking.protocols:
        if budgets := sorted({k for by_k in p.budget.values() for k in by_k}):
            rows = [(name, *(words(p.budget[name][k]) for k in budgets)) for name in p.order]
            title = f"{p.name}: expected loss of the best of k random draws from the grid"
            return [Table(("optimizer", *(f"k = {k}" for k in budgets)), tuple(rows), title)]
    return []


def _diverged(ranking: Ranking) -> list[Table]:
    """Share of the seeds that diverged at the best value, where any did."""
    names = [name for name in ranking.names if any(p.diverged[name] > 0 for p in ranking.protocols)]
    rows = [(name, *(f"{p.diverged[name]:.0%}" for p in ranking.protocols)) for name in names]
    head = ("optimizer", *(p.name for p in ranking.protocols))
    return [Table(head, tuple(rows), "Share of the seeds that diverged at the best value")] if rows else []
