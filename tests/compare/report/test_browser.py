"""The page in a browser: every figure is drawn, nothing complains, nothing is fetched, no name runs."""

import pytest
from tests.pages import DRAWN, chromium, watched_tab

from truestep.compare.report import write_comparison

pytestmark = pytest.mark.browser
pytest.importorskip("plotly")
pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def browser(chromium_path):
    with chromium(chromium_path) as found:
        yield found


@pytest.fixture
def view(browser, tmp_path):
    """Open a report; afterwards nothing may have complained, asked for a file, or opened a dialog."""
    with watched_tab(browser, "compare.html") as tab:

        def show(**results):
            tab.goto(write_comparison(tmp_path / "compare.html", **results).as_uri())
            return tab

        yield show


def test_everything_is_drawn_and_a_click_hides_an_optimizer_in_every_curve(view, speed, swap, ranking) -> None:
    tab = view(speed=[speed], swap=[swap], ranking=ranking)
    ids = tab.eval_on_selector_all(".figure", "found => found.map(one => one.id)")
    assert len(ids) == 11
    assert [id_ for id_ in ids if not tab.evaluate(DRAWN, id_)] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
    for id_ in ("knob-0", "knob-1"):
        assert tab.locator(f"#{id_} .scatterlayer .trace").count() == 3
    tab.click("button.chip >> nth=1")
    for id_ in ("knob-0", "knob-1"):
        assert tab.locator(f"#{id_} .scatterlayer .trace").count() == 2
    assert tab.locator("img, main a").count() == 0


def test_hovering_tells_the_loss_at_a_step_and_the_distance_at_a_multiple(view, speed) -> None:
    tab = view(speed=[speed])
    for id_, words in (("curves-0", "step"), ("distances-0", "multiple"), ("residuals-0", "nats")):
        tab.locator(f"#{id_}").scroll_into_view_if_needed()
        box = tab.locator(f"#{id_} .nsewdrag").last.bounding_box()
        tab.mouse.move(box["x"] + 5, box["y"] + 5)
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
        tab.wait_for_selector(f"#{id_} .hoverlayer text", timeout=5000)
        assert words in tab.locator(f"#{id_} .hoverlayer").first.text_content()
