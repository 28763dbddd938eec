"""A page taken apart: elements, text, figures."""

import base64
import json
from html.parser import HTMLParser

import numpy as np


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
