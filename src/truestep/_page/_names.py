"""Names as a page has room for them, and as plotly shows them untouched."""

from __future__ import annotations

import html


def short(name: str, width: int = 32) -> str:
    """The name in about `width` characters: words of its path to one letter first, then the middle left out.

    Example:
        >>> short("conv1.weight"), short("transformer.layers.11.attention.query.weight")
        ('conv1.weight', 't.l.11.a.query.weight')
    """
    path = name.split(".")
    if len(name) > width:
        path[:-2] = [word if word.isdigit() else word[:1] for word in path[:-2]]
    brief = ".".join(path)
    return brief if len(brief) <= width + 4 else f"{brief[: width // 2 - 2]}…{brief[-(width // 2) :]}"


def plain(name: str) -> str:
    """The name as plotly shall show it: its labels are a kind of HTML, and its templates fill in %{...}."""
    return html.escape(name).replace("%{", "%&#123;")
