"""`truestep demo`: both runs with a progress bar, the table of asked against taken, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from truestep.lab._demo_runs import Trained, demo
from truestep.monitor import load_run, write_report
from truestep.monitor.report import quarters

if TYPE_CHECKING:
    from truestep.monitor.report._queries import Taken
    from truestep.monitor.report._table import Row


def show(directory: Path, *, steps: int, seed: int, console: Console) -> Path:
    """Train, print what was asked beside what was taken, and write the report; returns its path."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small go faster on one
    try:
        runs = _with_progress(directory, steps, seed, console)
    finally:
        torch.set_num_threads(threads)
    records = [load_run(run.run_dir) for run in runs]
    for run, record in zip(runs, records, strict=True):
        rows = quarters(record)
        console.print(table(run, rows), changes(run, rows))
    console.print(
        "Asked was the same lr in both runs. What the weights took is not: without decay their norm grows and the "
        "same step turns them less and less; with decay the angle settles where it is predicted, whatever the layer.",
        style="italic",
    )
    page = write_report(records, directory / "report.html")
    for record in records:
        record.close()
    console.print(f"Run records: {', '.join(str(run.run_dir) for run in runs)}", soft_wrap=True)
    console.print(f"Report: {page.resolve()}", soft_wrap=True)
    return page


def _with_progress(directory: Path, steps: int, seed: int, console: Console) -> list[Trained]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:

        def advance(title: str, done: int) -> None:
            if title not in bars:
                bars[title] = progress.add_task(f"training, {title}", total=steps)
            progress.update(bars[title], completed=done)

        return demo(directory, steps=steps, seed=seed, progress=advance)


def table(run: Trained, rows: Sequence[Row]) -> Table:
    """What one run asked and took, first and last quarter of its steps, two lines for each weight."""
    own = f"{run.accuracy_batch:.3f} with the batch's own"
    shown = _table(f"{run.title} | test accuracy {run.accuracy:.3f} with running statistics, {own}")
    shown.caption = (
        "predicted: sqrt(2 lr wd / (1 + momentum)), for weights that BatchNorm makes scale invariant (not the head); "
        f"watching every second step cost {100 * run.cost:.0f} % of the time (every='auto' stays under 1 %)"
    )
    for name in ("quarter", "asked lr", "angle, mrad", "predicted", "|d|/|w|", "effective lr"):
        shown.add_column(name, justify="right")
    for row in _weights(rows):
        for quarter, taken in (("first", row.first), ("last", row.last)):
            if taken is not None:
                shown.add_row(row.block.name if quarter == "first" else "", quarter, *_cells(row, taken))
    return shown


def changes(run: Trained, rows: Sequence[Row]) -> Table:
    """Why the angle changed: the factor from the first to the last quarter, and the factors it is the product of."""
    shown = _table(f"{run.title} | why the angle changed, last quarter over first")
    for name in ("angle x", "= gradient |g| x", "* norm 1/|w| x", "* the rest x"):
        shown.add_column(name, justify="right")
    for row in _weights(rows):
        if (parts := row.split) is not None:
            factors = (parts.angle, parts.gradient, parts.norm, parts.settings + parts.turning)
            shown.add_row(row.block.name, *(f"{exp(factor):.2f}" for factor in factors))
    return shown


def _table(title: str) -> Table:
    shown = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("layer", no_wrap=True)
    return shown


def _weights(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if len(row.block.shape) > 1]


def _cells(row: Row, taken: Taken) -> list[str]:
    told = row.targeted and row.block.symmetry is not None and isfinite(taken.predicted)
    predicted = f"{1e3 * taken.predicted:.1f}" if told else "none"
    return [
        f"{taken.lr:.3g}",
        f"{1e3 * taken.angle:.2f}",
        predicted,
        f"{taken.relative:.2g}",
        f"{taken.effective_lr:.2g}",
    ]
