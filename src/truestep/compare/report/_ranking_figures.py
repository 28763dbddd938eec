"""Figures of a ranking: loss against lr, probabilities of ranks, agreement of orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Final

from truestep._page import COLOURS, Figure, axis_of, log_axis, loss_axis, matrix, plain, short
from truestep.compare.rank import Protocol, Ranking
from truestep.compare.report._lines import finite, geometric_mean, line, over_values

RANKS: Final = [[0, "#eef3fa"], [1, "#1f5fb4"]]
AGREEMENT: Final = [[0, "#c8642a"], [0.5, "#f1f1f1"], [1, "#1f5fb4"]]


def loss_against_knob(protocol: Protocol, places: Mapping[str, int]) -> Figure:
    """Loss at the end of each optimizer against its lr or step length; the best value is a larger point."""
    means = {name: geometric_mean(losses.T) for name, losses in protocol.losses.items()}
    data: list[Figure] = []
    for name, mean in means.items():
        colour, grid = COLOURS[places[name] % len(COLOURS)], protocol.grid[name]
        sizes = [12 if value == protocol.best[name] else 5 for value in grid]
        trace = line(short(name), grid, mean, "loss %{y:.4~g}", colour, mode="lines+markers", meta=places[name])
        data.append(trace | {"marker": {"size": sizes, "opacity": 1}})
    values = [value for grid in protocol.grid.values() for value in grid]
    untrained = max(finite([mean[0] for mean in means.values()]), default=inf)  # by the smallest step of each
    shown = [value for mean in means.values() for value in finite(mean) if value <= 3 * untrained]
    layout = over_values(
        axis_of("lr" if protocol.knob == "lr" else "step length", None, log_axis(values, least=3)),
        axis_of("loss at the end", None, loss_axis(shown)),
        f"{protocol.knob} %{{x:.3~g}}",
    )
    layout |= {"showlegend": False, "margin": {"l": 62, "r": 14, "t": 22, "b": 42}}
    return {"data": data, "layout": layout}


def rank_probabilities(protocol: Protocol) -> Figure:
    """Rows are optimizers in their order, columns the ranks."""
    names = list(protocol.rank)
    rows = [protocol.probabilities[names.index(name)].tolist() for name in protocol.order]
    ranks = [str(rank) for rank in range(1, len(names) + 1)]
    hover = "%{y}: rank %{x} with probability %{z:.0%}<extra></extra>"
    return _cells(rows, protocol.order, ranks, "%{z:.0%}", hover, {"colorscale": RANKS, "zmin": 0, "zmax": 1})


def order_agreement(ranking: Ranking) -> Figure:
    """Kendall's tau between the protocols."""
    names = [p.name for p in ranking.protocols]
    hover = "%{y} and %{x}: %{z:.2f}<extra></extra>"
    colours = {"colorscale": AGREEMENT, "zmin": -1, "zmax": 1}
    return _cells(ranking.tau.tolist(), names, names, "%{z:.2f}", hover, colours)


def _cells(
    rows: list[list[float]], y: Sequence[str], x: Sequence[str], text: str, hover: str, colours: Figure
) -> Figure:
    """A heat map whose cells say their numbers."""
    trace = {
        "type": "heatmap",
        "z": matrix(rows),
        "x": [plain(name) for name in x],
        "y": [plain(short(name)) for name in y],
        "texttemplate": text,
        "hovertemplate": hover,
        "hoverongaps": False,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }
    layout = {
        "height": 110 + 30 * len(rows),
        "hovermode": "closest",
        "showlegend": False,
        "margin": {"l": 62, "r": 14, "t": 22, "b": 42},
        "xaxis": {"type": "category", "showgrid": False, "automargin": True},
        "yaxis": {"type": "category", "showgrid": False, "automargin": True, "autorange": "reversed"},
    }
    return {"data": [trace | colours], "layout": layout}
