"""Remake the README's figure: the demo, its report in Chromium, and a picture of what was asked against what was taken.

python docs/make_figure.py [DIRECTORY OF A FINISHED DEMO]
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console

from truestep.lab.demo import show

TARGET = Path(__file__).parent / "_static" / "asked-against-taken.png"
LAST = "#asked"  # the picture ends below this section


def picture(page_path: Path, target: Path) -> None:
    """A screenshot of the report from its top to the end of the section `LAST`, at 1280 pixels' width."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium on PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(page_path.resolve().as_uri())
        page.wait_for_timeout(2000)
        box = page.locator(LAST).bounding_box()
        height = box["y"] + box["height"] + 16
        page.screenshot(path=target, full_page=True, clip={"x": 0, "y": 0, "width": 1280, "height": height})
        browser.close()


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    if len(sys.argv) > 1:
        picture(Path(sys.argv[1]) / "report.html", TARGET)
    else:
        with tempfile.TemporaryDirectory() as directory:
            picture(show(Path(directory), steps=1600, seed=0, console=Console()), TARGET)
    print(TARGET)
