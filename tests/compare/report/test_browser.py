"""The page in a browser: every figure is drawn, nothing complains, nothing is fetched, no name runs."""

import pytest

from truestep.compare.report import write_comparison

pytestmark = pytest.mark.browser
pytest.importorskip("plotly")
sync_api = pytest.importorskip("playwright.sync_api")

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
DRAWN = """id => {
    const figure = document.getElementById(id);
    const boxes = [...figure.querySelectorAll("svg.main-svg .scatterlayer path, svg.main-svg .heatmaplayer image")];
    return boxes.some(shape => { const box = shape.getBoundingClientRect(); return box.width + box.height > 1; });
}"""


@pytest.fixture(scope="module")
def browser(chromium_path):
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def view(browser, tmp_path):
    """Open a report; afterwards nothing may have complained, asked for a file, or opened a dialog."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    tab = context.new_page()
    complaints = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    tab.on("request", lambda request: complaints.append(request.url) if "compare.html" not in request.url else None)

    def show(**results):
        tab.goto(write_comparison(tmp_path / "compare.html", **results).as_uri())
        return tab

    yield show
    context.close()
    assert complaints == []


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
