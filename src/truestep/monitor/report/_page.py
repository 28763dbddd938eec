"""The page: runs to sections, sections to one HTML file that needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from truestep._page import Figure, html_page, number_words, short, write_page
from truestep.monitor._schema import FILE
from truestep.monitor.report import _balance, _facts, _figures, _shift
from truestep.monitor.report._axes import axes_for
from truestep.monitor.report._figures import LAYERS, RUNS, Layer, coarser
from truestep.monitor.report._heat import heat_map
from truestep.monitor.report._record import Record, blocks, choose_names
from truestep.monitor.report._view import Limits, View, factor, read


@dataclass(frozen=True, slots=True)
class Panel:
    """Where one run's figure stands: the run's title and colour, and the figure's element id and height."""

    title: str
    colour: str
    figure: str
    height: int


def write_report(runs: Sequence[Record], path: str | Path) -> Path:
    """Write one self-contained HTML page about one run, or about several beside each other, and return its path.

    The page says what was asked (learning rate, decay) and what each layer's weights took (angle per step, in mrad,
    beside the predicted equilibrium; effective lr; growth of the norm). It is read offline: the plotting script is
    inside, nothing is fetched. Numbers are aggregated in SQL, so its size does not grow with the run's length.

    Args:
        runs: Records to show; any status, also still running or killed, with any number of steps.
        path: File to write; an existing one is replaced as a whole.

    Raises:
        ValueError: If `runs` is empty.
        ImportError: If plotly or jinja2 is missing.
    """
    if not runs:
        msg = "`runs` must hold at least one run, found none; pass for example [load_run(run_dir)]"
        raise ValueError(msg)
    page = render(runs, time.time())
    return write_page(path, page)


def render(runs: Sequence[Record], now: float) -> str:
    """The page as text, as seen at unix time `now`."""
    found = [blocks(run) for run in runs]
    places = {name: place for place, name in enumerate(choose_names(found, len(LAYERS)))}
    limits = Limits.of(len(runs))
    views = [
        read(run, title, of_run, places, limits=limits, now=now)
        for run, title, of_run in zip(runs, titles(runs), found, strict=True)
    ]
    figures = draw(views, places)
    shifted = _shift.layers_to_draw([view.shift for view in views], places)
    return html_page(
        files("truestep.monitor.report").joinpath("template.html.j2").read_text(encoding="utf-8"),
        "a report",
        figures,
        views=views,
        panels=_panels(views, figures),
        differing=list(_facts.differences([view.settings for view in views]).items()),
        places=places,
        layer_colours=LAYERS,
        tasks={name: (place, _balance.colour(place)) for name, place in tasks_of(views).items()},
        num_tasks=max((len(view.balance.tasks) for view in views if view.balance), default=0),
        shifted={name: place for name, place in shifted.items() if place >= _shift.FIRST},
        num_shifted=len({line.name for view in views if view.shift for line in view.shift.lines} - set(shifted)),
        shift_rows=limits.table_rows,
        words=_shift.words,
        run_colours=[RUNS[number % len(RUNS)] for number in range(len(views))],
        factor=factor,
        short=short,
        number=number_words,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)),
    )


def draw(views: Sequence[View], places: Mapping[str, int]) -> dict[str, Figure]:
    """All figures by the id of their element, `"asked-0"` for the first run's; axes are the same for all runs."""
    lines, heat = ([t for layer in kind for t in layer.bins.values()] for kind in _layers(views))
    shares = [t for layer in _layers(views)[0] for t in coarser(layer).bins.values()]
    lrs = [lr for view in views for line in view.lrs.values() for _, lr in line]
    axes = axes_for(lines, shares, heat, lrs, max(view.end for view in views))
    figures: dict[str, Figure] = {}
    for number, view in enumerate(views):
        if view.lrs or view.lines:
            figures[f"asked-{number}"] = _figures.asked_and_taken(view.lrs, view.lines, axes)
        if view.heat:
            figures[f"heat-{number}"] = heat_map(view.heat, axes)
        if view.lines:
            figures[f"effective-{number}"] = _figures.effective(view.lines, axes)
            figures[f"norm-{number}"] = _figures.norms(view.lines, axes)
    balances = _balance.figures_of([view.balance for view in views], tasks_of(views), axes.steps)
    figures |= {f"balance-{number}": figure for number, figure in enumerate(balances) if figure}
    shifts = [view.shift for view in views]
    drawn = _shift.figures_of(shifts, _shift.layers_to_draw(shifts, places), axes.steps)
    figures |= {f"shift-{number}": figure for number, figure in enumerate(drawn) if figure}
    losses = [
        (view.title if len(view.losses) == 1 else f"{view.title}, {line.optimizer}", RUNS[number % len(RUNS)], line)
        for number, view in enumerate(views)
        for line in view.losses
    ]
    return figures | ({"loss-0": _figures.loss(losses, axes)} if losses else {})


def tasks_of(views: Sequence[View]) -> dict[str, int]:
    """The tasks to draw, with their places among the colours."""
    return _balance.tasks_to_draw(view.balance for view in views)


def titles(runs: Sequence[Record]) -> list[str]:
    """A title for each run, its own or its directory's name; a number is added where two are the same."""
    plain = [run.meta.get("title") or _directory(run.where) for run in runs]
    return [f"{t} ({plain[: i + 1].count(t)})" if plain.count(t) > 1 else t for i, t in enumerate(plain)]


def _directory(where: str) -> str:
    path = Path(where)
    return path.resolve().parent.name if path.name == FILE else path.name


def _layers(views: Sequence[View]) -> tuple[list[Layer], list[Layer]]:
    return [layer for view in views for layer in view.lines], [layer for view in views for layer in view.heat]


def _panels(views: Sequence[View], figures: Mapping[str, Figure]) -> dict[str, list[Panel]]:
    """The runs' panels by the figure's kind."""
    panels: dict[str, list[Panel]] = {}
    for id_, figure in figures.items():
        kind, number = id_.split("-")
        place = int(number)
        panel = Panel(views[place].title, RUNS[place % len(RUNS)], id_, figure["layout"]["height"])
        panels.setdefault(kind, []).append(panel)
    return panels
