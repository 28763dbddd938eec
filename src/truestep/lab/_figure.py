"""How the lab's figures look, and how they are saved so that the same numbers give the same file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from truestep.core._extra import lab_extra
from truestep.lab._claim import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all readers
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY: Final = "#777777"
PANEL: Final = (5.2, 3.4)  # inches
STYLE: Final[Any] = {  # matplotlib's stubs want its own literal keys
    "svg.hashsalt": "truestep",  # ids in the file are drawn from it instead of from the clock
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def panels(count: int = 1) -> tuple[Figure, list[Any]]:
    """A figure with `count` panels side by side, without pyplot: no window, no global state.

    Example:
        >>> figure, axes = panels(2)
        >>> len(axes)
        2
    """
    with lab_extra("the lab"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(PANEL[0] * count, PANEL[1]), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def draw(plot: Callable[[Sequence[Measurement]], Figure], measurements: Sequence[Measurement], path: Path) -> None:
    """Plot in the lab's style and write it as the path's suffix says; an SVG carries no date."""
    with lab_extra("the lab"):
        import matplotlib as mpl
    with mpl.rc_context(STYLE):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        plot(measurements).savefig(path, metadata=metadata)
