"""The page as text: complete in itself, small, and nobody's name gets out of its place."""

import base64
import hashlib
import json
import re
import sys

import pytest
from tests.pages import Page

from truestep._page import script_json
from truestep.monitor import _schema
from truestep.monitor._run import load_run
from truestep.monitor.report import write_report
from truestep.monitor.report._page import render, titles

HOSTILE = "</script><img src=x onerror=alert(1)>"
NOW = 1_700_000_100.0
pytest.importorskip("plotly")
pytest.importorskip("jinja2")


def page(*runs) -> Page:
    return Page(render(runs, NOW))


def hostile(new_book):
    book = new_book(HOSTILE, command=json.dumps([HOSTILE]), seed=HOSTILE, git=json.dumps({"commit": HOSTILE}))
    book.optimizer(HOSTILE, settings=[{"lr": 0.1, HOSTILE: HOSTILE}])
    book.block(HOSTILE, symmetry=HOSTILE)
    for step in range(8):
        book.step(step, loss=1.0)
        book.take(step)
    book.take(8, ww=None)
    book.lr(0, 0.1)
    book.event(3, HOSTILE, HOSTILE)
    return book


def test_a_hostile_name_stays_text_wherever_it_stands(new_book) -> None:
    told = page(hostile(new_book), hostile(new_book))
    tags = {tag for tag, _ in told.elements}
    assert "img" not in tags
    assert [tag for tag, _ in told.elements].count("script") == 3
    assert not {name for _, attrs in told.elements for name in attrs if name.startswith("on")}
    assert told.text.count(HOSTILE) > 10
    assert {trace["name"] for trace in told.figures["effective-0"]["data"]} == {
        "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"
    }


def test_the_balance_of_tasks_is_told_where_a_balancer_was_watched_and_a_hostile_task_stays_text(new_book) -> None:
    book = hostile(new_book)
    plain = page(book)
    assert not any("balance" in id_ for id_ in plain.figures)
    assert "Balance of the tasks" not in plain.text
    for step in range(8):
        book.balance(step, {HOSTILE: (1.0, 2.0, 0.5, 1.0), **{f"t{i}": (1.0, 2.0, 0.5, 1.0) for i in range(13)}})
    told = page(book, hostile(new_book))
    assert {id_ for id_ in told.figures if "balance" in id_} == {"balance-0"}
    assert [attrs["id"] for tag, attrs in told.elements if tag == "section"][-3:-1] == ["loss", "events"]
    assert "Balance of the tasks" in told.text
    assert "2 more are in the record only." in told.text
    chips = [attrs for tag, attrs in told.elements if tag == "button" and int(attrs["data-layer"]) >= 1000]
    assert [chip["title"] for chip in chips] == [HOSTILE, *(f"t{i}" for i in range(11))]
    assert {tag for tag, _ in told.elements}.isdisjoint({"img"})
    assert told.figures["balance-0"]["data"][0]["name"] == "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"


def shifted(book, name, steps=(0, 8), **options):
    """Measured before steps; the last of them is after the last step taken."""
    numbers = {"nu": 2e4, "largest": 2.0, "outlier": 1e4, "lower": 3.0, "upper": 4.0, "ics_share": 0.937}
    for step in steps:
        book.shift(step, {name: numbers, "norm": {"direct": 1.25, "direct_weight": float("inf")}}, **options)
    return book


def test_covariate_shift_is_told_where_it_was_measured_and_a_hostile_layer_stays_text(new_book) -> None:
    plain = page(hostile(new_book))
    assert not any("shift" in id_ for id_ in plain.figures)
    assert "Covariate shift" not in plain.text
    told = page(hostile(new_book), shifted(hostile(new_book), HOSTILE))
    words = " ".join(told.text.split())
    assert {id_ for id_ in told.figures if "shift" in id_} == {"shift-1"}
    assert "empirical deltas" in words
    assert f"after 8 steps of {HOSTILE}, in training mode, over 2 batches; the latest of 2 measurements" in words
    assert "64 2e+04 2 1e+04 93.7 – – norm – – – – – 1.25 ∞" in words
    assert {tag for tag, _ in told.elements}.isdisjoint({"img"})
    assert told.figures["shift-1"]["data"][0]["name"] == "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"
    low, high = told.figures["shift-1"]["layout"]["xaxis"]["range"]
    assert low < 0
    assert high > 8


def test_the_chips_of_layers_that_are_no_drawn_weights_stand_in_the_section_itself(new_book) -> None:
    book = shifted(shifted(hostile(new_book), "a"), "b", steps=(1, 9))
    book.block("b.weight")
    for step in range(8):
        book.take(step, 2)
    told = page(book)
    chips = {attrs["title"]: int(attrs["data-layer"]) for tag, attrs in told.elements if tag == "button"}
    assert set(chips) == {HOSTILE, "b.weight", "a", "norm"}
    drawn = {(trace["name"], trace["meta"]) for trace in told.figures["shift-0"]["data"]}
    assert drawn == {("a", chips["a"]), ("b", chips["b.weight"]), ("norm", chips["norm"])}
    assert len({chips[name] for name in chips}) == 4


def test_a_single_measurement_is_a_table_alone_also_before_any_step(new_book) -> None:
    book = new_book(status="running", created=str(NOW), world_size="4")
    book.optimizer()
    book.shift(0, {"": {"nu": 1.0}}, train_mode=0, batches=1)
    told = page(book)
    words = " ".join(told.text.split())
    assert told.figures == {}
    assert "after 0 steps of SGD, in evaluation mode, over 1 batch on rank 0 and those of the other ranks" in words
    assert "no ICS share was measured" in words
    assert "model 64 1 – – – – –" in words


def test_a_long_table_is_cut_and_says_so(new_book) -> None:
    book = new_book()
    book.optimizer()
    book.shift(0, {f"fc{i}": {"nu": 1.0} for i in range(500)})
    words = " ".join(page(book).text.split())
    assert "20 more layers are in the record only." in words
    assert "fc479" in words
    assert "fc480" not in words


def test_script_json_reads_back_and_holds_nothing_that_ends_a_script() -> None:
    value = {HOSTILE: ["<!--", "<script", "]]>", "\u2028&amp;", 1.5]}
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028") & set(text)
    with pytest.raises(ValueError, match="Out of range"):
        script_json(float("nan"))


def test_nothing_is_fetched_and_only_the_pages_own_scripts_may_run(two_runs) -> None:
    told = page(*two_runs)
    assert not [attrs for _, attrs in told.elements if {"src", "href"} & set(attrs)]
    (policy,) = [attrs["content"] for _, attrs in told.elements if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for script in told.scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_the_page_says_what_was_asked_what_was_taken_and_what_differs(two_runs) -> None:
    told = page(*two_runs)
    words = " ".join(told.text.split())
    assert "4 layers; asked lr 0.1; the median layer turned" in words
    assert "of the predicted equilibrium" in words
    assert "SGD weight_decay 0.005 0" in words
    assert set(told.figures) == {f"{kind}-{n}" for kind in ("asked", "heat", "effective", "norm") for n in (0, 1)} | {
        "loss-0"
    }
    ids = [attrs["id"] for tag, attrs in told.elements if attrs.get("class") == "figure"]
    assert sorted(ids) == sorted(told.figures)


def test_panels_of_all_runs_share_their_axes(two_runs) -> None:
    figures = page(*two_runs).figures
    for kind in ("asked", "effective", "norm"):
        assert figures[f"{kind}-0"]["layout"]["yaxis"] == figures[f"{kind}-1"]["layout"]["yaxis"]
    assert figures["heat-0"]["data"][0]["zmin"] == figures["heat-1"]["data"][0]["zmin"]


def test_a_run_without_steps_is_a_page_without_figures(new_book) -> None:
    told = page(new_book(status="running", created=str(NOW)))
    assert told.figures == {}
    assert "No step has been recorded yet." in told.text


def test_a_run_with_losses_but_no_recorded_step_shows_the_losses(new_book) -> None:
    book = new_book()
    book.optimizer()
    book.block("fc.weight")
    for step in range(5):
        book.step(step, loss=1.0)
    assert set(page(book).figures) == {"loss-0"}


def test_what_is_not_finite_is_told_in_words(new_book) -> None:
    book = new_book()
    book.optimizer()
    book.block("fc.weight")
    for step in range(4):
        book.step(step, loss=float("inf") if step == 1 else 1.0)
        book.take(step, **({"dd": float("nan")} if step > 1 else {}))
    words = " ".join(page(book).text.split())
    assert "fc.weight: 2 recorded steps with NaN or infinite values (first at step 2, last at step 3)" in words
    assert "Infinite loss at 1 step, left out" in words


def test_the_page_stays_small_however_many_blocks_and_steps_there_are(new_book) -> None:
    book = new_book()
    book.optimizer()
    for number in range(700):
        book.block(f"transformer.layers.{number}.attention.self.query_projection.weight", shape=(9, 9))
    for step in range(0, 35_000, 700):
        book.step(step, loss=1.0)
        book.lr(step, 0.1 - step / 1e6)
        for number in range(700):
            book.take(step, block=number + 1, ww=100.0 + number)
    for step in range(0, 35_000, 7):
        book.take(step + 1, block=1)
    text = render([book], NOW)
    told = Page(text)
    assert len(text) - len(told.scripts[1]) < 1_500_000
    assert len(told.figures["effective-0"]["data"]) == 12
    rows, columns = map(int, told.figures["heat-0"]["data"][0]["z"]["shape"].split(", "))
    assert rows == 40
    assert columns <= 300
    assert "480 largest of 700 layers" in told.text
    assert "220 smaller ones are in the record only" in told.text


def test_a_run_on_disk_is_read_back_and_written_as_one_file(open_book, tmp_path) -> None:
    (tmp_path / "my-run").mkdir()
    path = tmp_path / "my-run" / _schema.FILE
    book = open_book(path)
    book.optimizer()
    book.block("fc.weight")
    for step in range(8):
        book.step(step, loss=1.0)
        book.take(step)
    book.db.commit()
    with load_run(path.parent) as run:
        written = write_report([run], tmp_path / "new" / "report.html")
    book.close()
    assert written == tmp_path / "new" / "report.html"
    assert [file.name for file in written.parent.iterdir()] == ["report.html"]
    assert "my-run" in Page(written.read_text(encoding="utf-8")).text


def test_runs_are_called_by_title_or_directory_and_told_apart(new_book) -> None:
    runs = [new_book("a"), new_book(""), new_book("a")]
    runs[1].where = "/runs/night/run.db"
    assert titles(runs) == ["a (1)", "night", "a (2)"]


def test_no_run_is_an_error_that_says_what_to_pass(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"`runs` must hold at least one run.*load_run"):
        write_report([], tmp_path / "report.html")


@pytest.mark.parametrize("missing", ["plotly.offline", "jinja2"])
def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch, new_book, tmp_path, missing) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=re.escape("pip install 'truestep[report]'")):
        write_report([new_book()], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
