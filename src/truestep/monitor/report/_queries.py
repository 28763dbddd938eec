r"""From the rows of a run record to the few numbers that a page can hold, aggregated in SQL.

Every mean here is a sum of sums, divided last: over the steps of a bin the products of a step are averaged in units
of its own :math:`\|w\|^2`, and the angle is read off the averaged products,

.. math:: \theta = \operatorname{atan2}\Bigl(\sqrt{\overline{\|d_\perp\|^2/\|w\|^2}},\;
          1 + \overline{\langle w,d\rangle/\|w\|^2}\Bigr),

which is the exact angle for one step and the root mean square of small angles for several. Norms and relative
updates are root mean squares, the learning rates plain means. Skipped steps moved nothing and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import atan2, isfinite, nan, sqrt
from typing import Any, Final

from truestep.monitor.report._record import Block, Optimizer, Record, Span

_MOVED: Final = "FILTER (WHERE abs(ww) + abs(wd) + abs(dd) < 9e999)"  # null and inf fail the comparison
_BAD: Final = "COALESCE(abs(ww) + abs(wd) + abs(dd) + abs(wg) + abs(gg) + abs(gd) < 9e999, 0) = 0"
_SUMS: Final = f"""
    COUNT(*), MIN(step), MAX(step), AVG(step), AVG(lr),
    AVG(2 * lr * weight_decay * COALESCE(1 / (1 + momentum), (1 - beta1) / (1 + beta1), 1)), AVG(lr / ww) {_MOVED},
    AVG(ww) {_MOVED}, AVG(gg) FILTER (WHERE gg < 9e999), AVG(dd) {_MOVED},
    AVG(wd / ww) {_MOVED}, AVG(dd / ww) {_MOVED}, AVG(MAX(dd - wd / ww * wd, 0) / ww) {_MOVED}"""
_NOT_SKIPPED: Final = "AND (optimizer, step) NOT IN (SELECT optimizer, step FROM step WHERE skipped)"

_POWERS: Final = {
    **dict.fromkeys(("at", "lr", "effective_lr", "radial", "growth"), 1),
    **dict.fromkeys(("predicted", "w", "g", "d", "relative", "angle"), 2),
}


@dataclass(frozen=True, slots=True)
class Taken:
    """What one block took over some steps; nan where nothing finite was recorded.

    Args:
        rows: Number of recorded steps behind the numbers, with the `first`, the `last` and their mean `at`.
        lr: Learning rate asked, mean.
        predicted: Equilibrium angle in radians, sqrt(2 lr wd / (1 + momentum)) for SGD and
            sqrt(2 lr wd (1 - beta1) / (1 + beta1)) for AdamW; nan for other rules.
        effective_lr: lr / |w|², mean.
        w: Root mean square of |w|; `g` and `d` likewise, of gradient and displacement.
        radial: Mean of 2<w,d> / |w|² a step; `growth`: of |d|² / |w|². Their sum is the growth of |w|² a step.
        relative: Root mean square of |d| / |w|.
        angle: Angle between the weights before and after a step, in radians.
    """

    rows: int
    first: int
    last: int
    at: float
    lr: float
    predicted: float
    effective_lr: float
    w: float
    g: float
    d: float
    radial: float
    growth: float
    relative: float
    angle: float


@dataclass(frozen=True, slots=True)
class Losses:
    """Loss of the steps of one optimizer in bins: least, mean (weighted by samples) and greatest; `at` their step."""

    optimizer: str
    at: tuple[float, ...]
    least: tuple[float, ...]
    mean: tuple[float, ...]
    greatest: tuple[float, ...]
    infinite: int


def in_bins(
    run: Record, wanted: Sequence[Block], rules: dict[int, Optimizer], bins: int
) -> dict[int, dict[int, Taken]]:
    """What each wanted block took in at most `bins` equal stretches of the recorded steps: block id, bin, `Taken`."""
    first, width = _extent(run)[0], bin_width(run, bins)
    sql = f"""SELECT block, (step - ?) / ? AS bin, {_SUMS} FROM block_step
              WHERE block IN (SELECT value FROM json_each(?)) {_skips(run)} GROUP BY block, bin ORDER BY block, bin"""
    predicts = {block.id: rules[block.optimizer].predicts for block in wanted}
    found: dict[int, dict[int, Taken]] = {block.id: {} for block in wanted}
    for id_, number, *sums in run.query(sql, (first, width, _ids(wanted))):
        found[id_][number] = _taken(sums, predicts=predicts[id_])
    return found


def bin_width(run: Record, bins: int) -> int:
    """Steps in a bin, so that `bins` of them hold all recorded steps."""
    first, last = _extent(run)
    return -(-(last - first + 1) // bins)


def in_quarter(
    run: Record, wanted: Sequence[Block], rules: dict[int, Optimizer], found: dict[int, Span], *, last: bool
) -> dict[int, Taken]:
    """What each wanted block took in the first or last quarter of its optimizer's recorded steps, at least one."""
    taken: dict[int, Taken] = {}
    for id_, span in found.items():
        if span.first is None or span.last is None:
            continue
        length = (span.last - span.first) // 4
        low, high = (span.last - length, span.last) if last else (span.first, span.first + length)
        sql = f"""SELECT block, {_SUMS} FROM block_step WHERE optimizer = ? AND step BETWEEN ? AND ?
                  AND block IN (SELECT value FROM json_each(?)) {_skips(run)} GROUP BY block"""
        rows = run.query(sql, (id_, low, high, _ids(wanted)))
        taken |= {block: _taken(sums, predicts=rules[id_].predicts) for block, *sums in rows}
    return taken


def schedules(run: Record, found: dict[int, Span], bins: int = 500) -> dict[tuple[int, int], list[tuple[int, float]]]:
    """Learning rate by optimizer and parameter group: the steps where it changed, exact while they fit in `bins`.

    Of the changes in one bin, the least, the greatest and the last are kept, each at its own step.
    """
    end = max((span.end for span in found.values()), default=0)
    groups = run.query("SELECT COUNT(*) FROM (SELECT DISTINCT optimizer, param_group FROM schedule)")[0][0]
    width = -(-(end + 1) // max(20, bins if groups <= 12 else 12 * bins // groups))
    part = f"FROM schedule GROUP BY optimizer, param_group, step / {width}"
    sql = f"""SELECT optimizer, param_group, step, lr FROM (
                SELECT optimizer, param_group, step, MIN(lr) AS lr {part} UNION
                SELECT optimizer, param_group, step, MAX(lr) {part} UNION
                SELECT optimizer, param_group, MAX(step), lr {part})
              ORDER BY optimizer, param_group, step"""
    lines: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for optimizer, group, step, lr in run.query(sql):
        lines.setdefault((optimizer, group), []).append((step, _number(lr)))
    for (optimizer, _), line in lines.items():
        if optimizer in found and found[optimizer].end > line[-1][0]:
            line.append((found[optimizer].end, line[-1][1]))  # a group keeps its lr until it changes
    return lines


def losses(run: Record, rules: dict[int, Optimizer], found: dict[int, Span], bins: int = 500) -> list[Losses]:
    """Losses of all steps, at most 3 `bins` numbers an optimizer; optimizers that saw the same losses count once."""
    lines: list[Losses] = []
    for id_, span in found.items():
        width = -(-(span.end + 1) // bins)
        finite = "FILTER (WHERE abs(loss) < 9e999)"
        sql = f"""SELECT AVG(step) {finite}, MIN(loss) {finite},
                    SUM(loss * COALESCE(samples, 1)) {finite} / SUM(COALESCE(samples, 1)) {finite},
                    MAX(loss) {finite}, COUNT(*) FILTER (WHERE abs(loss) >= 9e999)
                  FROM step WHERE optimizer = ? AND loss IS NOT NULL GROUP BY step / ?"""
        rows = run.query(sql, (id_, width))
        columns = [tuple(_number(row[i]) for row in rows if row[0] is not None) for i in range(4)]
        line = Losses(rules[id_].name, *columns, infinite=sum(row[4] for row in rows))
        if rows and all((line.at, line.mean) != (other.at, other.mean) for other in lines):
            lines.append(line)
    return lines


def nonfinite(run: Record) -> list[tuple[str, int, int, int]]:
    """Blocks with recorded steps that hold nan or inf: name, how many steps, the first, the last."""
    sql = f"""SELECT b.name, n, low, high FROM (
                SELECT block, COUNT(*) AS n, MIN(step) AS low, MAX(step) AS high FROM block_step
                WHERE {_BAD} GROUP BY block) JOIN block AS b ON b.id = block ORDER BY b.id"""
    return [(name, n, low, high) for name, n, low, high in run.query(sql)]


def events(run: Record, limit: int = 100) -> tuple[list[tuple[float, str, int | None, str, str]], dict[str, int]]:
    """The first `limit` events (unix time, optimizer, step, kind, text), and how many there are of each kind."""
    rows = run.query(
        """SELECT e.time, COALESCE(o.name, ''), e.step, e.kind, SUBSTR(COALESCE(e.text, ''), 1, 500) FROM event AS e
           LEFT JOIN optimizer AS o ON o.id = e.optimizer ORDER BY e.time, e.id LIMIT ?""",
        (limit,),
    )
    counts = run.query("SELECT kind, COUNT(*) FROM event GROUP BY kind ORDER BY kind")
    return [(time, name, step, kind, text) for time, name, step, kind, text in rows], dict(counts)


def joined(parts: Sequence[Taken]) -> Taken:
    """Neighbouring stretches as one: means weighted by recorded steps, of squares where a root was taken.

    The angle is the root mean square of the parts' angles. A part without a number has no weight in its mean.
    """
    mean = {
        name: _mean([(getattr(part, name) ** power, part.rows) for part in parts]) ** (1 / power)
        for name, power in _POWERS.items()
    }
    rows = sum(part.rows for part in parts)
    return Taken(rows, min(part.first for part in parts), max(part.last for part in parts), **mean)


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    finite = [(value, rows) for value, rows in weighted if isfinite(value)]
    return sum(value * rows for value, rows in finite) / sum(rows for _, rows in finite) if finite else nan


def _taken(sums: Sequence[Any], *, predicts: bool) -> Taken:
    rows, first, last, *means = sums
    at, lr, equilibrium, effective, ww, gg, dd, radial, relative, tangential = map(_number, means)
    return Taken(
        rows=rows,
        first=first,
        last=last,
        at=at,
        lr=lr,
        predicted=sqrt(equilibrium) if predicts and equilibrium > 0 else nan,
        effective_lr=effective,
        w=sqrt(ww),
        g=sqrt(gg),
        d=sqrt(dd),
        radial=2 * radial,
        growth=relative,
        relative=sqrt(relative),
        angle=atan2(sqrt(tangential), 1 + radial),
    )


def _extent(run: Record) -> tuple[int, int]:
    """First and last recorded step of all optimizers; (0, 0) where there is none."""
    low, high = run.query("SELECT MIN(step), MAX(step) FROM block_step")[0]
    return low or 0, high or 0


def _skips(run: Record) -> str:
    """The clause that leaves skipped steps out, where there are any."""
    return _NOT_SKIPPED if run.query("SELECT 1 FROM step WHERE skipped LIMIT 1") else ""


def _ids(wanted: Iterable[Block]) -> str:
    return json.dumps([block.id for block in wanted])


def _number(value: float | None) -> float:
    """A finite float, or nan: SQL gives NULL for an empty mean, and an overflowing one is inf."""
    return nan if value is None or not isfinite(value) else float(value)
