"""One file that needs nothing else: what is put into it stays text, and only its own scripts may run."""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import pytest

from truestep._page import check_page, html_page, number_words, script_json, write_page

HOSTILE = "</script><img src=x onerror=alert(1)>"
TEMPLATE = "{{ name }}|{{ figures | safe }}|{{ hashes | join(' ') | safe }}|{{ scripts[1] | safe }}"


def test_names_are_escaped_figures_are_json_and_scripts_have_their_hashes() -> None:
    pytest.importorskip("plotly")
    name, figures, hashes, script = html_page(TEMPLATE, "a page", {"a": {"data": [HOSTILE]}}, name=HOSTILE).split(
        "|", 3
    )
    assert name == "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"
    assert json.loads(figures) == {"a": {"data": [HOSTILE]}}
    assert "<" not in figures
    assert hashes.split()[1] == f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def test_what_json_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        script_json(float("nan"))


def test_a_page_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    assert write_page(path, "one\n") == path
    assert write_page(path, "two\n").read_bytes() == b"two\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_page_that_could_not_be_written_is_refused_before_the_work_and_nothing_is_left(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="which is a directory: name a file in it"):
        check_page(tmp_path, "a page")
    with pytest.raises(ValueError, match=r"a page cannot be written to .*page.html: .*; name another file"):
        check_page(tmp_path / "file" / "page.html", "a page")
    check_page(tmp_path / "new" / "page.html", "a page")
    check_page(tmp_path / "file", "a page")
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "new"]


def test_a_number_has_three_digits_and_what_is_none_a_dash() -> None:
    assert [number_words(value) for value in (0.12345, float("nan"), float("inf"))] == ["0.123", "–", "–"]


@pytest.mark.parametrize("missing", ["plotly.offline", "jinja2"])
def test_a_missing_library_is_named_with_who_needs_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=re.escape("a page needs plotly and jinja2: pip install 'truestep[report]'")):
        html_page("", "a page", {})
    with pytest.raises(ImportError, match=re.escape("a page needs plotly and jinja2: pip install 'truestep[report]'")):
        check_page("page.html", "a page")
