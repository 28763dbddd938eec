"""What the pages that rooms write have in common: the file, its style and script, axes, numbers, names."""

from truestep._page._arrays import integers, matrix, numbers
from truestep._page._axes import Axis, log_axis, log_ticks, loss_axis, lr_axis
from truestep._page._html import check_page, html_page, number_words, script_json, write_page
from truestep._page._names import plain, short
from truestep._page._parts import COLOURS, INK, Figure, axis_of, faint, steps_layout, trace_of

__all__ = [
    "COLOURS",
    "INK",
    "Axis",
    "Figure",
    "axis_of",
    "check_page",
    "faint",
    "html_page",
    "integers",
    "log_axis",
    "log_ticks",
    "loss_axis",
    "lr_axis",
    "matrix",
    "number_words",
    "numbers",
    "plain",
    "script_json",
    "short",
    "steps_layout",
    "trace_of",
    "write_page",
]
