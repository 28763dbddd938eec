"""One run, read once: everything the page says about it, and the numbers its figures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite

from truestep.monitor.report import _balance, _facts, _queries, _shift
from truestep.monitor.report._figures import Layer
from truestep.monitor.report._queries import Losses, Taken
from truestep.monitor.report._record import Block, Optimizer, Record, Span, blocks, choose, optimizers
from truestep.monitor.report._record import spans as spans_of
from truestep.monitor.report._table import Row, headline

Bins = dict[int, dict[int, Taken]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a run is shown: columns of a figure, rows of a heat map, rows of the table."""

    columns: int
    heat_rows: int
    table_rows: int

    @classmethod
    def of(cls, num_runs: int) -> Limits:
        """Limits that keep the page small: 300 columns for up to three runs, fewer for more."""
        return cls(min(300, max(40, 900 // num_runs)), max(6, min(40, 120 // num_runs)), max(12, 480 // num_runs))


@dataclass(frozen=True, slots=True)
class EventLine:
    """A line of the events' table; `after` is the time since the first step in words."""

    after: str
    where: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class View:
    """A run as the page shows it."""

    title: str
    status: _facts.Status
    verdict: str
    spread: str
    facts: dict[str, str]
    settings: dict[str, str]
    rows: list[Row]
    unlisted: int
    lrs: dict[str, list[tuple[int, float]]]
    heat: list[Layer]
    lines: list[Layer]
    losses: list[Losses]
    balance: _balance.Balanced | None
    shift: _shift.Shifted | None
    events: list[EventLine]
    event_counts: dict[str, int]
    notes: list[str]
    width: int
    end: int

    @property
    def main(self) -> list[Row]:
        """Rows shown at once: the weights that are drawn as lines, or what there is."""
        names = {layer.name for layer in self.lines}
        return [row for row in self.rows if row.block.name in names]

    @property
    def rest(self) -> list[Row]:
        """The other rows."""
        names = {layer.name for layer in self.lines}
        return [row for row in self.rows if row.block.name not in names]

    @property
    def predicts(self) -> bool:
        """Whether any layer has a predicted equilibrium."""
        return any(isfinite(t.predicted) for layer in self.lines if layer.target for t in layer.bins.values())


def read(
    run: Record, title: str, found: Sequence[Block], places: Mapping[str, int], *, limits: Limits, now: float
) -> View:
    """Read a run: `found` are its blocks, `places` the names to draw as lines with their places among the colours."""
    spans = spans_of(run)  # before the optimizers: a run that still goes on may add one in between
    rules = optimizers(run)
    listed = _listed(found, limits.table_rows)
    rows = _rows(run, listed, rules, spans)
    drawn = sorted({b for b in found if b.name in places} | set(choose(found, limits.heat_rows)), key=lambda b: b.id)
    bins = _queries.in_bins(run, drawn, rules, limits.columns)
    layers = [Layer(b.name, places.get(b.name, 0), bins[b.id], Row(b, None, None).targeted) for b in drawn]
    state = _facts.status(run.meta, spans, now)
    verdict, spread = _sentences(rows, found if len(listed) < len(found) else [], spans)
    told, counts = _events(run, spans)
    losses = _queries.losses(run, rules, spans)
    shift = _shift.read(run, limits.columns)
    return View(
        title=title,
        status=state,
        verdict=verdict,
        spread=spread,
        facts=_facts.facts(run, rules, spans, state),
        settings=_facts.settings(run, rules),
        rows=rows,
        unlisted=len(found) - len(listed),
        lrs=_lrs(run, rules, spans),
        heat=[layer for layer in layers if layer.bins],
        lines=[layer for layer in layers if layer.bins and layer.name in places],
        losses=losses,
        balance=_balance.read(run, limits.columns),
        shift=shift,
        events=told,
        event_counts=counts,
        notes=_notes(run, losses),
        width=_queries.bin_width(run, limits.columns),
        end=max([span.end for span in spans.values()] + ([shift.step] if shift else []), default=0),
    )


def quarters(run: Record) -> list[Row]:
    """Every block in the first and last quarter of its optimizer's recorded steps, weights first."""
    found = blocks(run)
    return _rows(run, _listed(found, len(found)), optimizers(run), spans_of(run))


def factor(change: float) -> str:
    """A change of a logarithm as the factor it is.

    Example:
        >>> factor(0.0), factor(-0.6931472)
        ('×1.00', '×0.50')
    """
    value = exp(change)
    return f"×{value:.2f}" if 0.095 < value < 100 else f"×{value:.2g}"


def _sentences(rows: list[Row], among: Sequence[Block], spans: dict[int, Span]) -> tuple[str, str]:
    """The verdict and how far the layers are apart; `among` are all blocks, where the rows are but some of them."""
    head = headline(rows)
    weights = sum(block.rank[0] < 2 for block in among)
    verdict = _facts.verdict(head, sum(span.taken for span in spans.values()), weights)
    return verdict, "" if head is None else _facts.spread(head)


def _listed(found: Sequence[Block], limit: int) -> list[Block]:
    """The blocks of the table: weights, then biases and gains, each in the model's order; the largest if not all."""
    kept = sorted(found, key=lambda block: block.rank)[:limit]
    return sorted(kept, key=lambda block: (block.rank[0] > 1, block.id))


def _rows(run: Record, listed: list[Block], rules: dict[int, Optimizer], spans: dict[int, Span]) -> list[Row]:
    first, last = (_queries.in_quarter(run, listed, rules, spans, last=last) for last in (False, True))
    rows = [Row(block, first.get(block.id), last.get(block.id)) for block in listed]
    return [row for row in rows if row.first is not None or row.last is not None]


def _lrs(run: Record, rules: dict[int, Optimizer], spans: dict[int, Span]) -> dict[str, list[tuple[int, float]]]:
    """Learning rates by a label that names the optimizer and, where they differ, its groups; at most 12 lines."""
    same: dict[tuple[int, tuple[tuple[int, float], ...]], list[int]] = {}
    for (optimizer, group), line in _queries.schedules(run, spans).items():
        same.setdefault((optimizer, tuple(line)), []).append(group)
    per_optimizer = [optimizer for optimizer, _ in same]
    out: dict[str, list[tuple[int, float]]] = {}
    for (optimizer, line), groups in list(same.items())[:12]:
        name = rules[optimizer].name if optimizer in rules else str(optimizer)
        several = per_optimizer.count(optimizer) > 1
        some = ", ".join(map(str, groups[:4])) + (", …" if len(groups) > 4 else "")
        out[f"{name} group {some}" if several else name] = list(line)
    return out


def _events(run: Record, spans: dict[int, Span]) -> tuple[list[EventLine], dict[str, int]]:
    told, counts = _queries.events(run)
    start = min((span.began for span in spans.values()), default=told[0][0] if told else 0.0)
    lines = [
        EventLine(_since(time - start), f"{name} step {step:,}" if step is not None else name, kind, text)
        for time, name, step, kind, text in told
    ]
    return lines, counts


def _since(seconds: float) -> str:
    return f"+{_facts.duration(seconds)}" if isfinite(seconds) and seconds > 0 else "start"


def _notes(run: Record, losses: Sequence[Losses]) -> list[str]:
    """What a reader must know to read the figures right."""
    infinite = sum(line.infinite for line in losses)
    notes = [f"Infinite loss at {infinite:,} step{_s(infinite)}, left out of the figure."] if infinite else []
    bad = _queries.nonfinite(run)
    notes += [
        f"{name}: {count:,} recorded step{_s(count)} with NaN or infinite values "
        f"(first at step {first:,}, last at step {last:,}); left out of means, gaps in the figures."
        for name, count, first, last in bad[:8]
    ]
    return notes + ([f"{len(bad) - 8:,} more blocks with NaN or infinite values."] if len(bad) > 8 else [])


def _s(count: int) -> str:
    return "" if count == 1 else "s"
