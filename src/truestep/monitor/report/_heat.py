"""The heat map: every layer, every stretch of steps."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10, nan

from truestep._page import Figure, log_ticks, matrix, numbers, plain, short
from truestep.monitor.report._axes import Axes
from truestep.monitor.report._figures import Layer, layout_of


def heat_map(layers: Sequence[Layer], axes: Axes) -> Figure:
    """Angle per step of each layer (rows) in each bin of steps (columns), colours on a logarithmic scale."""
    names = [plain(layer.name) for layer in layers]
    layout = layout_of(axes, height=max(192, 102 + 22 * len(names)), hovermode="closest")
    layout["yaxis"] = {
        "autorange": "reversed",
        "type": "category",
        "automargin": True,
        "showgrid": False,
        "tickvals": list(range(len(names))),
        "ticktext": [plain(short(layer.name)) for layer in layers],
    }
    return {"data": [_cells(layers) | {"y": names} | _colours(*axes.heat)], "layout": layout}


def _cells(layers: Sequence[Layer]) -> Figure:
    """The angles in mrad for the reader, and their logarithms for the colours."""
    columns = sorted({number for layer in layers for number in layer.bins})
    at = {number: taken.at for layer in layers for number, taken in layer.bins.items()}
    rows = [[1e3 * layer.bins[n].angle if n in layer.bins else nan for n in columns] for layer in layers]
    return {
        "type": "heatmap",
        "x": numbers([at[n] for n in columns]),
        "z": matrix([[log10(v) if v > 0 else nan for v in row] for row in rows]),
        "customdata": matrix(rows),
        "hovertemplate": "<b>%{y}</b><br>step %{x:.0f}<br>%{customdata:.4~g} mrad a step<extra></extra>",
        "hoverongaps": False,
        "ygap": 1,
    }


def _colours(low: float, high: float) -> Figure:
    """Colours from 10**low to 10**high mrad, with plain numbers at the bar."""
    ticks = log_ticks(low, high, least=2)
    bar = {
        "title": {"text": "mrad a step", "side": "right"},
        "tickvals": [log10(tick) for tick in ticks],
        "ticktext": [f"{tick:g}" for tick in ticks],
        "thickness": 12,
        "lenmode": "pixels",
        "len": 110,
        "y": 1,
        "yanchor": "top",
        "ypad": 0,
        "outlinewidth": 0,
    }
    return {"colorscale": "Viridis", "zmin": low, "zmax": high, "colorbar": bar}
