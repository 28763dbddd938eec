"""A part of the report, in words and numbers: the page and the terminal show the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite

from truestep._page import Figure


@dataclass(frozen=True, slots=True)
class Table:
    """Words in rows under their headings; `title` stands above."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.head) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Panel:
    """A figure under its caption and a line on how to read it; made only where it is drawn."""

    id: str
    caption: str
    note: str
    draw: Callable[[], Figure]


@dataclass(frozen=True, slots=True)
class Section:
    """Title, what is to be known for reading, warnings, tables and figures; `chips` are names with a place each."""

    id: str
    title: str
    lead: str
    tables: tuple[Table, ...] = ()
    panels: tuple[Panel, ...] = ()
    warnings: tuple[str, ...] = ()
    chips: dict[str, int] = field(default_factory=dict[str, int])


def words(value: float | int) -> str:
    """A number to three digits with a true minus.

    Example:
        >>> words(-0.03512), words(float("inf")), words(float("nan")), words(0.0)
        ('−0.0351', '∞', '–', '0')
    """
    if isfinite(value):
        return f"{value:.3g}".replace("-", "−")
    return {inf: "∞", -inf: "−∞"}.get(value, "–")


def span(value: float | int, ends: Sequence[float]) -> str:
    """A number with the ends of its interval.

    Example:
        >>> span(1.567, (1.549, 1.567))
        '1.57 [1.55, 1.57]'
    """
    low, high = ends
    return f"{words(value)} [{words(low)}, {words(high)}]"
