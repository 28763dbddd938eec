"""Sphinx configuration: `make docs` builds with warnings as errors and needs no network."""

import re
from typing import Any

from truestep import __version__

project = "truestep"
author = "The truestep authors"
copyright = f"2026, {author}"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"truestep {release}"
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

CODE = re.compile(
    r":[\w:]+:`[^`]*`|``[^`]*``|`([^`]+)`(?!_)(?=(\w?))"
)  # a role, a literal, or code in single backticks


def as_code(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings write `code` in single backticks, as Markdown does; reStructuredText wants two."""

    def doubled(found: re.Match[str]) -> str:
        return f"``{found[1]}``" + ("\\ " if found[2] else "") if found[1] else found[0]

    lines[:] = CODE.sub(doubled, "\n".join(lines)).split("\n")


def setup(app: Any) -> None:
    """Connect the above to autodoc."""
    app.connect("autodoc-process-docstring", as_code)
