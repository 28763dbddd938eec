"""Balance of the tasks: from the rows of a record to a figure, four panels over the same steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Final

from truestep._page import INK, Figure, axis_of, loss_axis, steps_layout, trace_of
from truestep.monitor._balance import THERE
from truestep.monitor.report._figures import LAYERS
from truestep.monitor.report._record import Record

Numbers = tuple[float, ...]

FIRST: Final = 1000  # a task's place is counted from here: the page hides traces by it, and layers by their own
PANELS: Final = (
    ("weight w", [0.79, 1.0]),
    ("norm w‖g‖", [0.53, 0.74]),
    ("ratio L/L(0)", [0.27, 0.48]),
    ("step factor", [0.0, 0.22]),
)


@dataclass(frozen=True, slots=True)
class TaskLine:
    """One task in bins of steps, by their mean step `at`: means of weight, of weight times norm, and of L/L(0)."""

    name: str
    at: Numbers
    weight: Numbers
    pull: Numbers
    ratio: Numbers


@dataclass(frozen=True, slots=True)
class Balanced:
    """What a balancer did in a run: a line for each task, and by how much the trunk's step was changed, in bins."""

    tasks: tuple[TaskLine, ...]
    at: Numbers
    step_factor: Numbers
    trunk_factor: Numbers


def read(run: Record, bins: int) -> Balanced | None:
    """The run's balance in at most `bins` equal stretches of steps; None where no balancer was watched."""
    if not run.query(THERE):
        return None
    first, last = run.query("SELECT MIN(step), MAX(step) FROM balance_step")[0]
    if first is None:
        return None
    place = (first, -(-(last - first + 1) // bins))
    factors = run.query(
        f"""SELECT AVG(step), {_mean("step_factor")}, {_mean("trunk_factor")}
            FROM balance_step GROUP BY (step - ?) / ? ORDER BY 1""",
        place,
    )
    rows = run.query(
        f"""SELECT t.name, AVG(s.step), {_mean("s.weight")}, {_mean("s.weight * s.norm")}, {_mean("s.ratio")}
            FROM task_step AS s JOIN task AS t ON t.id = s.task
            GROUP BY s.task, (s.step - ?) / ? ORDER BY s.task, 2""",
        place,
    )
    of_task: dict[str, list[Sequence[Any]]] = {}
    for name, *numbers in rows:
        of_task.setdefault(name, []).append(numbers)
    return Balanced(tuple(TaskLine(name, *_columns(found)) for name, found in of_task.items()), *_columns(factors))


def tasks_to_draw(found: Iterable[Balanced | None]) -> dict[str, int]:
    """Names of the tasks of all runs with their places among the colours: the first ones, one for each colour."""
    names = dict.fromkeys(task.name for balanced in found if balanced for task in balanced.tasks)
    return {name: FIRST + place for place, name in enumerate(list(names)[: len(LAYERS)])}


def colour(place: int) -> str:
    """The colour of a task's lines."""
    return LAYERS[(place - FIRST) % len(LAYERS)]


def figures_of(found: Sequence[Balanced | None], places: Mapping[str, int], steps: tuple[float, float]) -> list[Figure]:
    """A figure for each run, empty where nothing was balanced; the panels' axes are the same for all of them."""
    panels = [_panels(balanced, places) if balanced else None for balanced in found]
    shown = [panel for panel in panels if panel]
    axes = [
        loss_axis([v for panel in shown for _, drawn in panel[place] for v in drawn]) for place in range(len(PANELS))
    ]
    return [_figure(panel, axes, steps) if panel else {} for panel in panels]


def _panels(balanced: Balanced, places: Mapping[str, int]) -> list[list[tuple[Figure, Numbers]]]:
    """The traces of each panel, each with its numbers."""
    reads: tuple[tuple[str, Callable[[TaskLine], Numbers]], ...] = (
        ("w %{y:.4~g}", lambda task: task.weight),
        ("w‖g‖ %{y:.4~g}", lambda task: task.pull),
        ("L/L(0) %{y:.4~g}", lambda task: task.ratio),
    )
    drawn = [task for task in balanced.tasks if task.name in places]
    panels = [
        [(_of_task(task, places[task.name], read(task), hover), read(task)) for task in drawn] for hover, read in reads
    ]
    factors = [_factor("step factor", balanced.at, balanced.step_factor, "solid")]
    if any(map(isfinite, balanced.trunk_factor)):
        factors.append(_factor("of the summed gradient", balanced.at, balanced.trunk_factor, "dot"))
    return [*panels, factors]


def _of_task(task: TaskLine, place: int, y: Numbers, hover: str) -> Figure:
    line = {"color": colour(place), "width": 1.6}
    return trace_of(task.name, task.at, y, hover) | {"meta": place, "line": line}


def _factor(name: str, at: Numbers, y: Numbers, dash: str) -> tuple[Figure, Numbers]:
    return trace_of(name, at, y, "%{y:.4~g}") | {"line": {"color": INK, "width": 1.6, "dash": dash}}, y


def _figure(
    panels: Sequence[Sequence[tuple[Figure, Numbers]]], axes: Sequence[Figure], steps: tuple[float, float]
) -> Figure:
    layout = steps_layout(steps, height=720)
    ids = ("y", "y2", "y3", "y4")
    for id_, (title, domain), axis in zip(ids, PANELS, axes, strict=True):
        layout[id_.replace("y", "yaxis")] = axis_of(title, domain, axis, anchor="x")
    layout["xaxis"]["anchor"] = ids[-1]
    data = [trace | {"yaxis": id_} for id_, panel in zip(ids, panels, strict=True) for trace, _ in panel]
    return {"data": data, "layout": layout}


def _columns(rows: Sequence[Sequence[Any]]) -> tuple[Numbers, ...]:
    return tuple(
        tuple(nan if value is None else float(value) for value in column) for column in zip(*rows, strict=True)
    )


def _mean(column: str) -> str:
    """The mean of what is finite; NULL and inf fail the comparison."""
    return f"AVG({column}) FILTER (WHERE abs({column}) < 9e999)"
