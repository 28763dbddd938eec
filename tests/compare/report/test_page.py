"""The page as text: the sentence first, complete in itself, and nobody's name gets out of its place."""

import base64
import hashlib
import re
import sys
from dataclasses import replace

import pytest
from tests.compare.report.results import HOSTILE
from tests.pages import Page

from truestep.compare.report import print_comparison, write_comparison
from truestep.compare.report._page import facts_of, render, sections_of, sentences_of

pytest.importorskip("plotly")
pytest.importorskip("jinja2")


def test_the_first_line_is_the_sentence_and_the_ranking_s_comes_before_the_pairs(speed, swap, ranking) -> None:
    assert sentences_of([speed], [swap], None)[0] == f"{speed.sentence}."
    told = sentences_of([speed], [swap], ranking)
    assert told[0] == f"{ranking.sentence}."
    assert told[-1].endswith("(lengths in l2, over all weights).")
    page = Page(render([speed], [swap], ranking, now=0.0))
    assert page.words.index(" ".join(told[0].split())) < page.words.index(" ".join(told[1].split()))
    assert "1970-01-01 00:00 UTC" in page.words


def test_a_hostile_name_stays_text_wherever_it_stands(speed, swap, ranking) -> None:
    speed = replace(speed, problem=HOSTILE, a=HOSTILE, b=HOSTILE)
    page = Page(render([speed, speed], [replace(swap, a=HOSTILE)], ranking))
    tags = [tag for tag, _ in page.elements]
    assert "img" not in tags
    assert tags.count("script") == 3
    assert not {name for _, attrs in page.elements for name in attrs if name.startswith("on")}
    assert page.text.count(HOSTILE) > 8


def test_every_figure_has_its_element_and_nothing_is_fetched(speed, swap, ranking) -> None:
    page = Page(render([speed, speed], [swap, swap], ranking))
    ids = [attrs["id"] for _, attrs in page.elements if attrs.get("class") == "figure"]
    assert sorted(ids) == sorted(page.figures)
    assert len(set(ids)) == len(ids) == 16
    assert not [attrs for _, attrs in page.elements if {"src", "href"} & set(attrs)]
    (policy,) = [attrs["content"] for _, attrs in page.elements if "http-equiv" in attrs]
    for script in page.scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_chips_are_the_optimizers_of_the_ranking(ranking) -> None:
    page = Page(render([], [], ranking))
    chips = {attrs["title"]: attrs["data-layer"] for tag, attrs in page.elements if tag == "button"}
    assert chips == {"sgd": "0", "adam": "1", HOSTILE: "2"}
    assert ranking.warnings[0] in page.words


def test_every_figure_has_a_caption_and_a_line_on_how_to_read_it(speed, swap, ranking) -> None:
    panels = [panel for section in sections_of([speed], [swap], ranking) for panel in section.panels]
    page = Page(render([speed], [swap], ranking))
    assert len(panels) == 11
    for panel in panels:
        assert panel.caption
        assert panel.note in page.words


def test_facts_tell_what_differs_between_the_results(speed, ranking) -> None:
    facts = facts_of([speed, replace(speed, problem="other")], [], ranking)
    assert (facts["problem"], facts["seeds"], facts["steps"]) == ("digits-mlp, other", "3, 4", "300")


def test_the_file_is_written_as_a_whole_where_it_was_told(speed, tmp_path) -> None:
    written = write_comparison(tmp_path / "new" / "compare.html", speed=[speed])
    assert [path.name for path in written.parent.iterdir()] == ["compare.html"]
    assert "AdaBelief at lr 0.001 is Adam at lr 0.00157" in Page(written.read_text(encoding="utf-8")).words


def test_nothing_to_show_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match="one of `speed`, `swap`, `ranking`"):
        write_comparison(tmp_path / "compare.html")
    with pytest.raises(ValueError, match="one of `speed`, `swap`, `ranking`"):
        print_comparison(None)


@pytest.mark.parametrize("missing", ["plotly.offline", "jinja2"])
def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch, speed, tmp_path, missing) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=re.escape("pip install 'truestep[report]'")):
        write_comparison(tmp_path / "compare.html", speed=[speed])
    assert not list(tmp_path.iterdir())
