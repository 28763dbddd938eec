"""The verdicts as a page, as a table, or in a few lines."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from truestep.core._extra import lab_extra
from truestep.lab._claim import Verdict
from truestep.lab._results import Result, figure_path


def markdown(results: Sequence[Result]) -> str:
    """The verdicts as a Markdown table, a row for each claim.

    Example:
        >>> print(markdown([]))
        | claim | source | verdict | why |
        |---|---|---|---|
    """
    rows = [
        (
            f'<a id="{_cell(result.claim)}"></a>{_cell(result.claim)}: “{_cell(result.sentence)}”',
            _document(result),
            f"**{result.verdict}**",
            _cell(result.reason),
        )
        for result in results
    ]
    head = ["| claim | source | verdict | why |", "|---|---|---|---|"]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def summary(results: Sequence[Result], page: str) -> str:
    """The claims of each verdict, as a Markdown table of at most four rows.

    Args:
        results: What to list, in this order.
        page: Where the table with the reasons stands; each claim links to its row there.
    """
    rows: list[str] = []
    for verdict in Verdict:
        names = [result.claim for result in results if result.verdict == verdict]
        if names:
            rows.append(f"| **{verdict}** | {', '.join(f'[{name}]({page}#{name})' for name in names)} |")
    return "\n".join(["| verdict | claims |", "|---|---|", *rows])


def html(results: Sequence[Result], directory: Path) -> str:
    """One self-contained page: sentence, threshold, verdict, reason, intervals and figure of each claim.

    Args:
        results: What to show, in this order.
        directory: Where their figures lie; a missing one is left out.
    """
    with lab_extra("the lab"):
        from jinja2 import Environment, StrictUndefined
    template = (Path(__file__).parent / "report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    figures = {result.claim: _data_uri(figure_path(directory, result.claim)) for result in results}
    return environment.from_string(template).render(results=results, figures=figures)


def _document(result: Result) -> str:
    """The source without the place in it: what stands before the first comma."""
    return _cell(result.source.split(",")[0])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _data_uri(figure: Path) -> str:
    """A figure as an image's address: its ids cannot clash with another's."""
    if not figure.is_file():
        return ""
    return "data:image/svg+xml;base64," + base64.b64encode(figure.read_bytes()).decode()
