"""Reports: names and sentences are escaped, figures are inside, the table is Markdown."""

from dataclasses import replace
from pathlib import Path

import pytest

from truestep.lab import CLAIMS
from truestep.lab._report import html, markdown, summary
from truestep.lab._results import COMMITTED, Result, read


@pytest.fixture
def results() -> list[Result]:
    return [result for claim in CLAIMS if (result := read(COMMITTED, claim.name))]


def test_the_page_shows_every_claim_with_its_figure_and_needs_no_other_file(results: list[Result]) -> None:
    page = html(results, COMMITTED)
    assert page.count('src="data:image/svg+xml;base64,') == len(CLAIMS)
    for result in results:
        assert f'<h2 id="{result.claim}">' in page
        assert result.command in page
    assert "http" not in page


def test_the_page_escapes_what_it_is_given(results: list[Result]) -> None:
    page = html([replace(results[0], sentence="<script>alert(1)</script>")], COMMITTED)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_missing_figure_is_left_out(results: list[Result], tmp_path: Path) -> None:
    assert "<img" not in html(results, tmp_path)


def test_the_markdown_table_has_a_row_of_four_cells_for_each_claim(results: list[Result]) -> None:
    hostile = replace(results[0], reason="a | b\nc")
    lines = markdown([hostile, *results[1:]]).splitlines()
    assert len(lines) == 2 + len(CLAIMS)
    assert all(line.replace("\\|", "").count("|") == 5 for line in lines)
    assert "a \\| b c" in lines[2]


def test_the_summary_has_each_claim_once_in_the_row_of_its_verdict(results: list[Result]) -> None:
    lines = summary(results, "verdicts.md").splitlines()
    for result in results:
        (line,) = [line for line in lines if f"[{result.claim}](verdicts.md#{result.claim})" in line]
        assert line.startswith(f"| **{result.verdict}** |")
    assert len(lines) == 2 + len({result.verdict for result in results})
