"""Numbers to plotly figures, as plain dictionaries of traces and layout: pure, no import of plotly.

A trace of a layer carries the layer's place in the colour list as `meta`, by which the page shows and hides it in all
figures at once. The colour "ink" stands for the page's text colour, light or dark, and is put in by the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log10
from typing import Final

from truestep._page import (
    COLOURS,
    INK,
    Figure,
    axis_of,
    faint,
    integers,
    loss_axis,
    numbers,
    steps_layout,
    trace_of,
)
from truestep.monitor.report._axes import Axes
from truestep.monitor.report._queries import Losses, Taken, joined

Bins = Mapping[int, Taken]

LAYERS: Final = COLOURS
RUNS: Final = ("#64748b", "#e11d48", "#0d9488", "#ca8a04", "#7c3aed", "#0284c7", "#65a30d", "#db2777")
MRAD: Final = "%{y:.4~g} mrad"


@dataclass(frozen=True, slots=True)
class Layer:
    """One line in the figures: the block's name, its place among the colours, and what it took by bin.

    `target` says whether the predicted equilibrium may hold for it: not where it is known to be no invariant block.
    """

    name: str
    place: int
    bins: Bins
    target: bool = True

    @property
    def colour(self) -> str:
        """The layer's colour in all figures."""
        return LAYERS[self.place % len(LAYERS)]


def coarser(layer: Layer, bins: int = 40) -> Layer:
    """The layer with neighbouring bins joined to at most `bins` of about equal length, weighted by recorded steps."""
    numbers_ = sorted(layer.bins)
    width = -(-(numbers_[-1] - numbers_[0] + 1) // bins) if numbers_ else 1
    groups: dict[int, list[Taken]] = {}
    for number in numbers_:
        groups.setdefault((number - numbers_[0]) // width, []).append(layer.bins[number])
    return replace(layer, bins={place: joined(group) for place, group in groups.items()})


def asked_and_taken(lrs: Mapping[str, list[tuple[int, float]]], layers: Sequence[Layer], axes: Axes) -> Figure:
    """Learning rate asked, above the angle that each layer took a step and the predicted equilibrium."""
    dashes = ("solid", "dot", "dashdot", "longdash")
    asked = [
        {
            **trace_of(label, [float(s) for s, _ in line], [lr for _, lr in line], "lr %{y:.4~g}"),
            "line": {"color": INK, "width": 2, "shape": "hv", "dash": dashes[i % len(dashes)]},
        }
        for i, (label, line) in enumerate(lrs.items())
    ]
    taken = [_layer(layer, lambda t: 1e3 * t.angle, MRAD) | {"yaxis": "y2"} for layer in layers]
    targets, labels = _targets(layers)
    layout: Figure = layout_of(axes, height=470)
    layout["yaxis"] = axis_of("lr asked", [0.74, 1.0], axes.lr)
    layout["yaxis2"] = axis_of("angle taken, mrad a step", [0.0, 0.66], axes.angle, anchor="x")
    layout["xaxis"]["anchor"] = "y2"
    layout["annotations"] = labels
    layout["margin"]["r"] = 74 if axes.label else 14
    return {"data": [*asked, *taken, *targets], "layout": layout}


def effective(layers: Sequence[Layer], axes: Axes) -> Figure:
    """Effective learning rate lr / |w|² of each layer."""
    layout = layout_of(axes, height=320)
    layout["yaxis"] = axis_of("lr / ‖w‖²", None, axes.effective)
    return {"data": [_layer(layer, lambda t: t.effective_lr, "%{y:.4~g}") for layer in layers], "layout": layout}


def norms(layers: Sequence[Layer], axes: Axes) -> Figure:
    """Norm of each layer, and under it the two parts of the growth of its square in a step, in coarser bins."""
    shares: tuple[tuple[str, str, Callable[[Taken], float]], ...] = (
        ("solid", "‖d‖² %{y:+.3~g} %", lambda t: 100 * t.growth),
        ("dot", "2⟨w, d⟩ %{y:+.3~g} %", lambda t: 100 * t.radial),
    )
    data = [_layer(layer, lambda t: t.w, "‖w‖ %{y:.4~g}") for layer in layers]
    for layer in layers:
        for dash, hover, read in shares:
            trace = _layer(coarser(layer), read, hover)
            data.append(trace | {"yaxis": "y2", "line": trace["line"] | {"dash": dash}})
    layout = layout_of(axes, height=470)
    layout["yaxis"] = axis_of("norm ‖w‖", [0.56, 1.0], axes.norm)
    layout["yaxis2"] = axis_of("growth of ‖w‖², % a step", [0.0, 0.48], axes.growth, anchor="x", zeroline=True)
    layout["xaxis"]["anchor"] = "y2"
    return {"data": data, "layout": layout}


def loss(lines: Sequence[tuple[str, str, Losses]], axes: Axes) -> Figure:
    """Losses of several runs (label, colour, losses): the mean of each bin in a band from its least to its greatest."""
    data: list[Figure] = []
    for label, colour, line in lines:
        band = {"x": integers(line.at), "mode": "lines", "type": "scatter", "hoverinfo": "skip", "line": {"width": 0}}
        data.append(band | {"y": numbers(line.least), "connectgaps": True})
        fill = {"fill": "tonexty", "fillcolor": faint(colour), "connectgaps": True}
        data.append(band | {"y": numbers(line.greatest)} | fill)
        mean = trace_of(label, line.at, line.mean, "loss %{y:.4~g}")
        data.append(mean | {"line": {"color": colour, "width": 1.8}})
    layout = layout_of(axes, height=320)
    layout["yaxis"] = axis_of(
        "loss", None, loss_axis([v for _, _, line in lines for v in (*line.least, *line.greatest)])
    )
    return {"data": data, "layout": layout}


def _layer(layer: Layer, read: Callable[[Taken], float], hover: str) -> Figure:
    taken = [layer.bins[number] for number in sorted(layer.bins)]
    trace = trace_of(layer.name, [t.at for t in taken], [read(t) for t in taken], hover)
    return trace | {"meta": layer.place, "line": {"color": layer.colour, "width": 1.6}}


def _targets(layers: Sequence[Layer]) -> tuple[list[Figure], list[Figure]]:
    """The predicted equilibria, a dashed line for each distinct one; if all layers share it, in ink and labelled."""
    distinct: dict[tuple[float, ...], tuple[Layer, list[Taken]]] = {}
    for layer in layers:
        taken = [layer.bins[number] for number in sorted(layer.bins) if isfinite(layer.bins[number].predicted)]
        if taken and layer.target:
            distinct.setdefault(tuple(round(t.predicted, 12) for t in taken), (layer, taken))
    lines: list[Figure] = []
    for layer, taken in distinct.values():
        trace = trace_of("predicted equilibrium", [t.at for t in taken], [1e3 * t.predicted for t in taken], MRAD)
        colour, tie = (INK, {}) if len(distinct) == 1 else (layer.colour, {"meta": layer.place})
        dashed = {
            "yaxis": "y2",
            "mode": "lines" if len(taken) > 1 else "markers",
            "line": {"color": colour, "width": 1.6, "dash": "dash"},
        }
        lines.append(trace | tie | dashed)
    return lines, [_target_label(taken[-1]) for _, taken in distinct.values() if len(distinct) == 1]


def _target_label(taken: Taken) -> Figure:
    milliradians = 1e3 * taken.predicted
    return {
        "x": 1,
        "y": log10(milliradians),
        "xref": "paper",
        "yref": "y2",
        "showarrow": False,
        "xshift": 4,
        "xanchor": "left",
        "align": "left",
        "text": f"predicted<br>{milliradians:.3g} mrad",
    }


def layout_of(axes: Axes, *, height: int, hovermode: str = "x unified") -> Figure:
    return steps_layout(axes.steps, height=height, hovermode=hovermode)
