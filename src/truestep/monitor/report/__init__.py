"""One HTML page that says which step a run, or several, asked for and which step the weights took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truestep.monitor.report._record import Record
    from truestep.monitor.report._table import Row


def write_report(runs: Sequence[Record], path: str | Path) -> Path:
    """Write one self-contained HTML page about one run, or several compared; it needs no network.

    Args:
        runs: What `truestep.monitor.load_run` returns, still running or killed runs too.
        path: The file to write.

    Returns:
        The path written.

    Raises:
        ImportError: If plotly or jinja2 is missing: `pip install 'truestep[report]'`.
        ValueError: If `runs` is empty.
    """
    from truestep.monitor.report._page import write_report as write  # a fifth of a second that watching does not need

    return write(runs, path)


def quarters(run: Record) -> list[Row]:
    """What each block was asked and took in the first and last quarter of a run, and why its angle changed."""
    from truestep.monitor.report._view import quarters as read

    return read(run)


__all__ = ["quarters", "write_report"]
