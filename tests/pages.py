"""Pages under test: taken apart, or opened in a browser that lets nothing pass."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

import numpy as np

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
DRAWN = """id => {
    const figure = document.getElementById(id);
    const boxes = [...figure.querySelectorAll("svg.main-svg .scatterlayer path, svg.main-svg .heatmaplayer image")];
    return boxes.some(shape => { const box = shape.getBoundingClientRect(); return box.width + box.height > 1; });
}"""


class Page(HTMLParser):
    """Elements, their attributes, and the text in and outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.scripts, self.text = [], [], ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag) -> None:
        self._inside = ""

    def handle_data(self, data) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data + " "

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    @property
    def figures(self) -> dict:
        return json.loads(self.scripts[0])


def unpacked(packed: dict) -> np.ndarray:
    """Numbers of a trace as they were."""
    flat = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"])
    return flat.reshape(tuple(map(int, packed["shape"].split(", ")))) if "shape" in packed else flat


@contextmanager
def chromium(path: str) -> Iterator[Any]:
    """Debian's browser, driven by playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def watched_tab(browser: Any, file: str) -> Iterator[Any]:
    """A tab for a page of this name; afterwards nothing may have complained, asked for a file, or opened a dialog."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    tab.on("request", lambda request: complaints.append(request.url) if file not in request.url else None)
    yield tab
    context.close()
    assert complaints == []
