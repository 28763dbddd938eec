"""What was compared, as one HTML page or as tables in a terminal; the sentence that a reader needs comes first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from truestep.compare.rank import Ranking
from truestep.compare.speed import SpeedTest
from truestep.compare.swap import SwapTest


def write_comparison(
    path: str | Path,
    *,
    speed: Sequence[SpeedTest] = (),
    swap: Sequence[SwapTest] = (),
    ranking: Ranking | None = None,
) -> Path:
    """Write one self-contained HTML page about what was compared; it needs no network.

    Args:
        path: The file to write; an existing one is replaced as a whole.
        speed: Speed tests, the most important one first.
        swap: Swap tests.
        ranking: A ranking; its sentence is then the page's first.

    Returns:
        The path written.

    Raises:
        ImportError: If plotly or jinja2 is missing: `pip install 'truestep[report]'`.
        ValueError: If there is nothing to show.
    """
    from truestep._page import write_page  # what a training does not need
    from truestep.compare.report._page import render

    return write_page(path, render(speed, swap, ranking))


def print_comparison(
    console: Any, *, speed: Sequence[SpeedTest] = (), swap: Sequence[SwapTest] = (), ranking: Ranking | None = None
) -> None:
    """Print the same sentences, tables and warnings on a `rich.console.Console`; takes what `write_comparison` takes.

    Raises:
        ImportError: If rich is missing: `pip install 'truestep[lab]'`.
        ValueError: If there is nothing to show.
    """
    from truestep.compare.report._terminal import show

    show(console, speed, swap, ranking)


__all__ = ["print_comparison", "write_comparison"]
