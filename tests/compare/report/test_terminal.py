"""The report in a terminal: the sentence first, the page's tables, names as they are."""

import io
import sys

import pytest
from tests.compare.report.results import HOSTILE, make_ranking

from truestep.compare.report import print_comparison


def printed(**results) -> str:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=150, highlight=False)
    print_comparison(console, **results)
    return console.file.getvalue()


def test_the_sentence_is_the_first_line_and_all_tables_follow(speed, swap) -> None:
    told = printed(speed=[speed], swap=[swap])
    assert told.splitlines()[0] == f"{speed.sentence}."
    for words in ("1.57 [1.55, 1.58]", "0.03 [0.027, 0.033] nats", "−0.478 [−0.486, −0.469]", "seeds 4, steps 300"):
        assert words in told


def test_warnings_are_told_and_brackets_in_names_are_no_markup() -> None:
    told = printed(ranking=make_ranking(("sgd", "[bold]adam[/]", HOSTILE)))
    assert "warning the best lr of sgd is at the edge" in told
    assert "[bold]adam[/]" in told
    assert HOSTILE in told


def test_names_are_whole_and_words_are_explained_on_a_narrow_terminal(speed) -> None:
    rich = pytest.importorskip("rich.console")
    console = rich.Console(file=io.StringIO(), width=80, highlight=False)
    print_comparison(console, speed=[speed, speed])
    told = console.file.getvalue()
    assert "…" not in told
    assert "SPED-UP: at the best multiple" in " ".join(told.split())
    assert max(map(len, told.splitlines()[3:])) <= 80  # the sentences and what was run are for the terminal to wrap


def test_a_missing_rich_is_named_with_the_line_that_installs_it(monkeypatch, speed) -> None:
    monkeypatch.setitem(sys.modules, "rich.markup", None)
    with pytest.raises(ImportError, match="pip install 'truestep"):
        print_comparison(None, speed=[speed])
