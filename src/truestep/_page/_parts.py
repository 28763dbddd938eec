"""Parts of plotly figures, as plain dictionaries: no import of plotly.

The colour "ink" stands for the page's text colour, light or dark, and is put in by the page's script.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from truestep._page._arrays import integers, numbers
from truestep._page._names import plain, short

Figure = dict[str, Any]

COLOURS: Final = (
    *("#3b82d6", "#e8833a", "#2fa36b", "#d1495b", "#8f6bd1", "#b08400"),
    *("#d45fa8", "#1fa3b5", "#8a8f98", "#7ea52c", "#a0674b", "#5b6ee0"),
)
INK: Final = "ink"


def trace_of(name: str, x: Sequence[float], y: Sequence[float], hover: str) -> Figure:
    """A line over the steps `x`, with points where it has few."""
    mode = "lines+markers" if len(x) <= 12 else "lines"  # one point alone draws no line
    named = f"{plain(short(name))}: {hover}<extra></extra>"
    return {
        "type": "scatter",
        "mode": mode,
        "name": plain(name),
        "marker": {"size": 5},
        "x": integers(x),
        "y": numbers(y),
        "hovertemplate": named,
    }


def steps_layout(of: tuple[float, float], *, height: int, hovermode: str = "x unified") -> Figure:
    """A figure over the steps from `of[0]` to `of[1]`."""
    steps: Figure = {"title": {"text": "step"}, "zeroline": False, "tickformat": ",d", "range": list(of)}
    if of[1] < 6:
        steps["dtick"] = 1
    return {
        "height": height,
        "hovermode": hovermode,
        "hoverdistance": -1,  # tells the nearest step also where there are few
        "showlegend": False,
        "margin": {"l": 62, "r": 14, "t": 22, "b": 42},
        "xaxis": steps,
        "hoverlabel": {"align": "left"},
    }


def axis_of(title: str, domain: list[float] | None, axis: Figure, **more: Any) -> Figure:
    """An axis with its title, on the whole height or on a part of it."""
    placed = {} if domain is None else {"domain": domain}
    return {"title": {"text": title}, "zeroline": False} | axis | placed | more


def faint(colour: str) -> str:
    """The colour as a band behind a line of it."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},0.22)"
