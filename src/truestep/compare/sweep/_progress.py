"""A bar that shows how far a sweep is, drawn by rich where a terminal is there to see it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec

from truestep.core._extra import lab_extra


@contextmanager
def progress_bar(label: str, total: int, done: int, shown: bool | None) -> Generator[Callable[[], None]]:
    """A function to call as each trial ends.

    Args:
        label: What the sweep is for.
        total: Number of trials.
        done: How many of them the store had.
        shown: Whether to draw it; None for where stderr is a terminal and rich is installed.

    Raises:
        ImportError: `shown` is True and rich is not installed.

    Example:
        >>> with progress_bar("digits", 2, 0, shown=False) as advance:
        ...     advance()
    """
    if shown is None:
        shown = done < total and sys.stderr.isatty() and find_spec("rich") is not None
    if not shown:
        yield lambda: None
        return
    with lab_extra("the progress bar"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    stored = TextColumn(f"trials, {done} from the store" if done else "trials")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), stored, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label or "sweep", total=total, completed=done)
        yield lambda: bar.advance(task)
