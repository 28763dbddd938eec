"""One HTML file that needs nothing else: template, style, figures and the scripts that draw them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from truestep._page._parts import Figure


def html_page(template: str, who: str, figures: Mapping[str, Figure], **values: Any) -> str:
    """The template filled in, all names escaped, with the figures by the ids of their elements.

    Args:
        template: jinja2's; it puts `style`, `scripts`, their `hashes` and `figures` where they belong.
        who: Who needs plotly and jinja2, for the message where one is missing.
        figures: Traces and layouts, as `json` writes them.
        **values: What else the template names.

    Raises:
        ImportError: If plotly or jinja2 is missing.
    """
    with _libraries(who):
        from jinja2 import Environment, StrictUndefined
        from plotly.offline import get_plotlyjs
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    scripts = [text.replace("\r\n", "\n") for text in (get_plotlyjs(), _file("page.js"))]
    return environment.from_string(template).render(
        style=_file("page.css"),
        scripts=scripts,
        hashes=[_hash(text) for text in scripts],
        figures=script_json(figures),
        **values,
    )


def write_page(path: str | Path, text: str) -> Path:
    """Write the page as a whole: who reads it meanwhile sees the old one or the new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(target)
    draft.write_text(text, encoding="utf-8", newline="\n")
    return draft.replace(target)


def check_page(path: str | Path, who: str) -> None:
    """Refuse a page that could not be written, before the long work that it is to show.

    Raises:
        ImportError: If plotly or jinja2 is missing.
        ValueError: If there is no writing at `path`.
    """
    with _libraries(who):
        import jinja2  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import plotly.offline  # noqa: F401  # pyright: ignore[reportUnusedImport]
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{who} cannot be written to {target}, which is a directory: name a file in it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _draft(target).touch()
        _draft(target).unlink()
    except OSError as error:
        raise ValueError(f"{who} cannot be written to {target}: {error.strerror}; name another file") from error


def _draft(target: Path) -> Path:
    return target.with_name(target.name + ".part")


@contextmanager
def _libraries(who: str) -> Generator[None, None, None]:
    try:
        yield
    except ImportError as error:
        msg = f"{who} needs plotly and jinja2: pip install 'truestep[report]'"
        raise ImportError(msg, name=error.name) from error


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no character of it can end the element or open a comment."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number_words(value: float, scale: float = 1.0) -> str:
    """A number to three digits, a dash for nan.

    Example:
        >>> number_words(0.0226, 1e3), number_words(float("nan"))
        ('22.6', '–')
    """
    return f"{value * scale:.3g}" if isfinite(value) else "–"


def _file(name: str) -> str:
    return files("truestep._page").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """The script's name in the page's content security policy: no other script may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
