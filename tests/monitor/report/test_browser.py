"""The page in a browser: every figure is drawn, nothing complains, nothing is fetched, no name runs."""

from math import inf, nan

import pytest
from tests.pages import DRAWN, chromium, watched_tab

from truestep.monitor.report import write_report

pytestmark = pytest.mark.browser
pytest.importorskip("plotly")
pytest.importorskip("playwright.sync_api")

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser(chromium_path):
    with chromium(chromium_path) as found:
        yield found


@pytest.fixture
def view(browser, tmp_path):
    """Open a report of runs; afterwards nothing may have complained, asked for a file, or opened a dialog."""
    with watched_tab(browser, "report.html") as tab:

        def show(*runs):
            tab.goto(write_report(runs, tmp_path / "report.html").as_uri())
            return tab

        yield show


def figures(tab) -> list[str]:
    return tab.eval_on_selector_all(".figure", "found => found.map(one => one.id)")


def assert_all_drawn(tab, count: int) -> None:
    ids = figures(tab)
    assert len(ids) == count
    assert tab.locator(".js-plotly-plot").count() == count
    assert [id_ for id_ in ids if not tab.evaluate(DRAWN, id_)] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280


def small(new_book, title="run", name="fc.weight", steps=12, **meta):
    book = new_book(title, **meta)
    book.optimizer()
    block = book.block(name)
    book.lr(0, 0.1)
    for step in range(steps):
        book.step(step, loss=2.0 - step / steps)
        book.take(step, block, ww=100.0 + step)
    return book


def test_two_runs_are_drawn_side_by_side(view, two_runs) -> None:
    tab = view(*two_runs)
    assert_all_drawn(tab, 9)
    left, right = (tab.locator(f"#asked-{n}").bounding_box() for n in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


def test_one_run_is_drawn(view, two_runs) -> None:
    assert_all_drawn(view(two_runs[0]), 5)


def test_the_balance_of_tasks_is_drawn_and_a_click_hides_one_in_every_panel(view, new_book) -> None:
    book = small(new_book)
    for step in range(12):
        book.balance(step, {"class": (2.0**step, 1.0, 0.5, 1.0), HOSTILE: (1.0, None, 0.5**step, 1.0)}, 0.9, 0.8)
    tab = view(book)
    assert_all_drawn(tab, 6)
    lines = "#balance-0 .scatterlayer .trace"
    assert tab.locator(lines).count() == 8
    tab.click("#balance button.chip >> nth=0")
    assert tab.locator(lines).count() == 5
    tab.locator("#balance-0").scroll_into_view_if_needed()
    box = tab.locator("#balance-0 .nsewdrag").first.bounding_box()
    tab.mouse.move(box["x"] + 5, box["y"] + 5)
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    tab.wait_for_selector("#balance-0 .hoverlayer text", timeout=5000)
    assert HOSTILE[:6] in tab.locator("#balance-0 .hoverlayer").first.text_content()


def test_covariate_shift_is_drawn_in_its_panels_and_a_click_hides_a_layer(view, new_book) -> None:
    book = small(new_book)
    numbers = {"nu": 9.0, "largest": 2.0, "outlier": 4.5, "ics_share": 0.9}
    for step in (0, 12):
        book.shift(step, {"fc": numbers, HOSTILE: numbers, "norm": {"direct": 1.5}})
    tab = view(book)
    assert "shift-0" in figures(tab)
    assert tab.evaluate(DRAWN, "shift-0")
    lines = "#shift-0 .scatterlayer .trace"
    assert tab.locator(lines).count() == 5
    tab.click("#shift button.chip >> nth=0")
    tab.wait_for_function(f"document.querySelectorAll('{lines}').length === 3")


def test_one_step_is_drawn_as_points(view, new_book) -> None:
    assert_all_drawn(view(small(new_book, steps=1)), 5)


def test_a_run_without_steps_is_a_page_of_words(view, new_book) -> None:
    tab = view(new_book(status="running"))
    assert_all_drawn(tab, 0)
    assert "No step has been recorded yet." in tab.inner_text("header")


def test_a_killed_run_with_gaps_is_drawn_beside_another_of_other_layers(view, new_book) -> None:
    killed = small(new_book, "killed", status="running")
    killed.optimizer("AdamW", settings=[{"lr": 0.001}])
    block = killed.block("emb.weight", optimizer=2, kind="Embedding.weight")
    for step in range(12):
        bad = {"ww": nan} if step == 4 else {"dd": inf} if step == 5 else {}
        killed.step(step, loss=inf if step == 5 else 1.0, optimizer=2)
        killed.take(step, block, 2, **bad)
    killed.event(5, "nonfinite", "emb.weight")
    tab = view(killed, small(new_book, "other", name="conv.weight"))
    assert_all_drawn(tab, 9)
    assert "stopped" in tab.inner_text("header")
    assert "2 recorded steps with NaN or infinite values" in tab.inner_text("header")
    assert "nonfinite" in tab.inner_text("#events")


def test_a_hostile_name_is_shown_and_does_nothing(view, new_book) -> None:
    book = small(new_book, HOSTILE, name=HOSTILE)
    book.event(3, HOSTILE, HOSTILE)
    tab = view(book, small(new_book, "javascript:alert(1)", name="<a href='javascript:alert(1)'>x</a>"))
    assert_all_drawn(tab, 9)
    tab.evaluate("Plotly.Fx.hover('effective-0', [{curveNumber: 0, pointNumber: 3}])")
    tab.wait_for_selector("#effective-0 .hoverlayer text")
    assert tab.locator("img, main a").count() == 0
    assert HOSTILE in tab.inner_text("header")


def test_hovering_tells_numbers_with_their_unit(view, new_book) -> None:
    tab = view(small(new_book))
    for id_, unit in (("asked-0", "mrad"), ("heat-0", "mrad a step"), ("norm-0", "%")):
        tab.locator(f"#{id_}").scroll_into_view_if_needed()
        box = tab.locator(f"#{id_} .nsewdrag").last.bounding_box()
        tab.mouse.move(box["x"] + 5, box["y"] + 5)
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
        tab.wait_for_selector(f"#{id_} .hoverlayer text", timeout=5000)
        assert unit in tab.locator(f"#{id_} .hoverlayer").first.text_content()


def test_a_click_hides_a_layer_in_all_figures_and_another_brings_it_back(view, two_runs) -> None:
    tab = view(two_runs[0])
    lines = "#effective-0 .scatterlayer .trace"
    assert tab.locator(lines).count() == 4
    tab.click("button.chip >> nth=1")
    assert tab.locator(lines).count() == 3
    assert tab.get_attribute("button.chip >> nth=1", "aria-pressed") == "false"
    tab.click("button.chip >> nth=1")
    assert tab.locator(lines).count() == 4


def test_the_page_follows_the_readers_light_or_dark(view, new_book) -> None:
    tab = view(small(new_book))
    colours = []
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        tab.wait_for_timeout(100)
        colours.append(tab.evaluate("document.querySelector('#asked-0').layout.font.color"))
    assert colours == ["#17202c", "#e6ebf2"]
