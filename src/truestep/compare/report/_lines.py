"""What the figures of the report share: means over seeds, lines, layouts."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final

from jaxtyping import Float
from torch import Tensor

from truestep._page import Axis, Figure, numbers, plain, steps_layout

OF_A: Final = "#3b82d6"
OF_B: Final = "#e8833a"
OTHER: Final = "#8a8f98"
LEGEND: Final = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}


def geometric_mean(losses: Float[Tensor, "seeds points"]) -> list[float]:
    """Over the seeds, at each point; not finite where a seed diverged.

    Example:
        >>> import torch
        >>> geometric_mean(torch.tensor([[1.0, 2.0], [4.0, torch.inf]]))
        [2.0, inf]
    """
    return losses.double().clamp_min(1e-300).log().mean(0).exp().tolist()


def line(
    name: str, x: Sequence[float | int], y: Sequence[float | int], hover: str, colour: str, **more: object
) -> Figure:
    """A line over numbers that need not be steps."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name),
        "x": numbers(x),
        "y": numbers(y),
        "hovertemplate": f"{plain(name)}: {hover}<extra></extra>",
        "line": {"color": colour, "width": 1.8},
        "marker": {"size": 6},
    } | more


def over_steps(steps: Sequence[int], y_axis: Axis, height: int = 360) -> Figure:
    """A layout whose legend stands above the figure."""
    layout = steps_layout((0.0, 1.01 * max(steps)), height=height) | {"showlegend": True, "legend": LEGEND}
    return layout | {"yaxis": y_axis, "margin": {"l": 62, "r": 14, "t": 72, "b": 42}}


def over_values(x_axis: Axis, y_axis: Axis, hover_title: str, height: int = 360) -> Figure:
    """The same over a knob's values; `hover_title` is d3's, such as "lr %{x:.3~g}"."""
    return {
        "height": height,
        "hovermode": "x unified",
        "hoverdistance": -1,
        "showlegend": True,
        "legend": LEGEND,
        "margin": {"l": 62, "r": 14, "t": 72, "b": 42},
        "xaxis": x_axis | {"unifiedhovertitle": {"text": hover_title}},
        "yaxis": y_axis,
    }


def finite(values: Sequence[float]) -> list[float]:
    """Those of the values that are numbers."""
    return [value for value in values if isfinite(value)]
