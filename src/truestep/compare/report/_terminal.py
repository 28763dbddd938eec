"""The same sections in a terminal: sentences, warnings, tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from truestep.compare.rank import Ranking
from truestep.compare.report._page import facts_of, sections_of, sentences_of
from truestep.compare.report._section import Table
from truestep.compare.speed import SpeedTest
from truestep.compare.swap import SwapTest
from truestep.core._extra import lab_extra


def show(console: Any, speed: Sequence[SpeedTest], swap: Sequence[SwapTest], ranking: Ranking | None) -> None:
    """Print sentences first, then what they rest on."""
    with lab_extra("tables in a terminal"):
        from rich.markup import escape
    sections = sections_of(speed, swap, ranking)
    for number, sentence in enumerate(sentences_of(speed, swap, ranking)):
        console.print(f"[bold]{escape(sentence)}[/]" if number == 0 else escape(sentence), soft_wrap=True)
    told = ", ".join(f"{name} {value}" for name, value in facts_of(speed, swap, ranking).items())
    console.print(f"[bright_black]{escape(told)}[/]", soft_wrap=True)
    for section in sections:
        console.print(f"\n[bold]{escape(section.title)}[/]")
        console.print(f"[bright_black]{escape(section.lead)}[/]")
        for warning in section.warnings:
            console.print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)
        for table in section.tables:
            _print(console, table)


def _print(console: Any, table: Table) -> None:
    from rich.markup import escape
    from rich.table import Table as RichTable

    drawn = RichTable(title=escape(table.title) or None, title_justify="left")
    for cell in table.head:
        drawn.add_column(escape(cell), overflow="fold")  # a name cut short is no name
    for row in table.rows:
        drawn.add_row(*map(escape, row))
    console.print(drawn)
