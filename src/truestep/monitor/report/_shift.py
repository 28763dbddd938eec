"""Covariate shift: from the rows of a record to a table of the latest measurement, and a figure over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isinf, nan
from typing import Any, Final

from truestep._page import Figure, axis_of, log_axis, steps_layout, trace_of
from truestep.monitor._schema import OF_SHIFT
from truestep.monitor._shift import THERE
from truestep.monitor.report._figures import LAYERS
from truestep.monitor.report._record import Record

Numbers = tuple[float, ...]

# Places of what has none among the weights: the page hides traces by them. Multiples of the number of colours.
FIRST: Final = 200 * len(LAYERS)
FIRST_PATH: Final = 300 * len(LAYERS)


@dataclass(frozen=True, slots=True)
class ShiftRow:
    """A layer in the latest measurement, nan where a number does not apply; its columns are those of the record.

    A normalization layer has 0 rows `n`.
    """

    name: str
    n: int
    features: int
    nu: float
    largest: float
    outlier: float
    lower: float
    upper: float
    ics_share: float
    direct: float
    direct_weight: float


@dataclass(frozen=True, slots=True)
class ShiftLine:
    """A layer in bins of steps, by their mean step `at`: means of its outlier, ICS share, and direct over full."""

    name: str
    is_path: bool
    at: Numbers
    outlier: Numbers
    share: Numbers
    direct: Numbers


@dataclass(frozen=True, slots=True)
class Shifted:
    """What was measured in a run: the latest as rows, and, where there are several, a line for each layer."""

    step: int
    optimizer: str
    train_mode: bool
    batches: int
    times: int
    rows: tuple[ShiftRow, ...]
    lines: tuple[ShiftLine, ...]

    @property
    def shared(self) -> bool:
        """Whether an ICS share was measured, for which a loss must be given."""
        return any(isfinite(row.ics_share) for row in self.rows)


def read(run: Record, bins: int) -> Shifted | None:
    """What was measured, in at most `bins` equal stretches of steps; None where nothing was."""
    latest = run.query(THERE) and run.query(
        """SELECT s.step, s.optimizer, o.name, s.train_mode, s.batches, (SELECT count(*) FROM shift_step)
           FROM shift_step AS s JOIN optimizer AS o ON o.id = s.optimizer ORDER BY s.step DESC, s.optimizer LIMIT 1"""
    )
    if not latest:
        return None
    ((step, optimizer, name, train_mode, batches, times),) = latest
    rows = run.query(
        f"""SELECT l.name, r.n, r.features, {", ".join(f"r.{number}" for number in OF_SHIFT)}
            FROM layer_shift AS r JOIN layer AS l ON l.id = r.layer
            WHERE r.step = ? AND r.optimizer = ? ORDER BY r.n = 0, r.layer""",
        (step, optimizer),
    )
    table = tuple(ShiftRow(layer, n, features, *map(_number, numbers)) for layer, n, features, *numbers in rows)
    return Shifted(step, name, bool(train_mode), batches, times, table, _lines(run, step, bins) if times > 1 else ())


def _lines(run: Record, last: int, bins: int) -> tuple[ShiftLine, ...]:
    ((first,),) = run.query("SELECT min(step) FROM shift_step")
    found = run.query(
        f"""SELECT l.name, max(r.n) = 0, AVG(r.step), {_mean("outlier")}, {_mean("ics_share")}, {_mean("direct")}
            FROM layer_shift AS r JOIN layer AS l ON l.id = r.layer
            GROUP BY r.layer, (r.step - ?) / ? ORDER BY max(r.n) = 0, r.layer, 3""",
        (first, -(-(last - first + 1) // bins)),
    )
    of_layer: dict[tuple[str, bool], list[Sequence[Any]]] = {}
    for name, is_path, *numbers in found:
        of_layer.setdefault((name, bool(is_path)), []).append(numbers)
    return tuple(
        ShiftLine(name, is_path, *(tuple(map(_number, column)) for column in zip(*rows, strict=True)))
        for (name, is_path), rows in of_layer.items()
    )


def words(value: float, scale: float = 1.0) -> str:
    """A number to three digits; a dash for nan.

    Example:
        >>> words(0.93712, 100.0), words(float("inf")), words(float("nan"))
        ('93.7', '∞', '–')
    """
    return "–" if value != value else "∞" if isinf(value) else f"{value * scale:.3g}"  # noqa: PLR0124


def layers_to_draw(found: Iterable[Shifted | None], weights: Mapping[str, int]) -> dict[str, int]:
    """Layers of all runs with their places among the colours: that of the layer's weight, where `weights` has one.

    The others take the colours that are left; normalization layers, in a panel of their own, begin again.
    """
    names = {line.name: line.is_path for shifted in found if shifted for line in shifted.lines}
    layers = [name for name, is_path in names.items() if not is_path]
    places = {name: weights[weight] for name in layers if (weight := _weight(name)) in weights}
    free = [colour for colour in range(len(LAYERS)) if colour not in places.values()]
    places |= dict(zip([name for name in layers if name not in places], [FIRST + c for c in free], strict=False))
    paths = [name for name, is_path in names.items() if is_path]
    return places | {name: FIRST_PATH + place for place, name in enumerate(paths[: len(LAYERS)])}


def figures_of(found: Sequence[Shifted | None], places: Mapping[str, int], steps: tuple[float, float]) -> list[Figure]:
    """A figure for each run, empty where it was not measured at several steps; axes are the same for all of them."""
    lines = [line for shifted in found if shifted for line in shifted.lines if line.name in places]
    panels = [panel for panel in _panels() if any(map(isfinite, _values(lines, panel)))]
    return [_figure(shifted, panels, lines, places, steps) if shifted and shifted.lines else {} for shifted in found]


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    hover: str
    read: Callable[[ShiftLine], Numbers]
    is_path: bool
    axis: Callable[[Sequence[float]], Figure]


def _panels() -> list[_Panel]:
    return [
        _Panel("ν / λ₁(Σ)", "ν/λ₁(Σ) %{y:.4~g}", lambda line: line.outlier, False, log_axis),
        _Panel("ICS share, %", "%{y:.3~g} %", lambda line: tuple(100 * v for v in line.share), False, _percent),
        _Panel("direct / full", "direct/full %{y:.4~g}", lambda line: line.direct, True, log_axis),
    ]


def _figure(
    shifted: Shifted,
    panels: Sequence[_Panel],
    lines: Sequence[ShiftLine],
    places: Mapping[str, int],
    steps: tuple[float, float],
) -> Figure:
    """One panel under another; `lines` are those of all runs, for the axes."""
    layout, data, height = steps_layout(steps, height=120 + 160 * len(panels)), list[Figure](), 1 / max(len(panels), 1)
    for number, panel in enumerate(panels):
        id_ = f"y{number + 1}" if number else "y"
        top = 1 - number * height
        domain = [max(top - 0.86 * height, 0.0) if number + 1 < len(panels) else 0.0, top]
        axis = panel.axis(list(_values(lines, panel)))
        layout[id_.replace("y", "yaxis")] = axis_of(panel.title, domain, axis, anchor="x")
        layout["xaxis"]["anchor"] = id_
        data += [
            _trace(line, panel, places[line.name]) | {"yaxis": id_}
            for line in shifted.lines
            if _in(line, panel, places)
        ]
    return {"data": data, "layout": layout}


def _trace(line: ShiftLine, panel: _Panel, place: int) -> Figure:
    trace = trace_of(line.name or "model", line.at, panel.read(line), panel.hover)
    return trace | {"meta": place, "line": {"color": LAYERS[place % len(LAYERS)], "width": 1.6}}


def _in(line: ShiftLine, panel: _Panel, places: Mapping[str, int]) -> bool:
    return line.is_path == panel.is_path and line.name in places


def _values(lines: Sequence[ShiftLine], panel: _Panel) -> Iterable[float]:
    return (value for line in lines if line.is_path == panel.is_path for value in panel.read(line))


def _percent(_: Sequence[float]) -> Figure:
    return {"range": [-4, 104], "nticks": 5}


def _weight(layer: str) -> str:
    """Name of the layer's weight among the blocks."""
    return f"{layer}.weight" if layer else "weight"


def _number(value: float | None) -> float:
    return nan if value is None else float(value)


def _mean(column: str) -> str:
    """The mean of what is finite; NULL and inf fail the comparison."""
    return f"AVG(r.{column}) FILTER (WHERE abs(r.{column}) < 9e999)"
