"""The page: results to sections, sections to one HTML file that needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.resources import files

import torch

from truestep._page import COLOURS, html_page, short
from truestep.compare.rank import Ranking
from truestep.compare.report._ranking import ranking_section
from truestep.compare.report._section import Section
from truestep.compare.report._speed import speed_sections
from truestep.compare.report._swap import lengths, swap_section
from truestep.compare.speed import SpeedTest
from truestep.compare.swap import SwapTest


def render(
    speed: Sequence[SpeedTest], swap: Sequence[SwapTest], ranking: Ranking | None, now: float | None = None
) -> str:
    """The page as text, written at unix time `now`."""
    sections = sections_of(speed, swap, ranking)
    panels = {panel.id: panel.draw() for section in sections for panel in section.panels}
    stamp = time.gmtime(time.time() if now is None else now)
    return html_page(
        files("truestep.compare.report").joinpath("template.html.j2").read_text(encoding="utf-8"),
        "a comparison's page",
        panels,
        sentences=sentences_of(speed, swap, ranking),
        facts=facts_of(speed, swap, ranking),
        sections=sections,
        heights={id_: figure["layout"]["height"] for id_, figure in panels.items()},
        colours=COLOURS,
        short=short,
        written=time.strftime("%Y-%m-%d %H:%M UTC", stamp),
    )


def sections_of(speed: Sequence[SpeedTest], swap: Sequence[SwapTest], ranking: Ranking | None) -> list[Section]:
    """What there is to show, the ranking first.

    Raises:
        ValueError: If there is nothing.
    """
    ranked = [] if ranking is None else [ranking_section(ranking)]
    found = [*ranked, *(speed_sections(speed) if speed else []), *([swap_section(swap)] if swap else [])]
    if not found:
        raise ValueError("one of `speed`, `swap`, `ranking` must be given: there is nothing to show")
    return found


def sentences_of(speed: Sequence[SpeedTest], swap: Sequence[SwapTest], ranking: Ranking | None) -> list[str]:
    """One sentence for each result, the most important one first."""
    told = [one.sentence for one in (*([] if ranking is None else [ranking]), *speed)]
    told += [f"{one.sentence.removesuffix('.')} (lengths in {lengths(one)})" for one in swap]
    return [f"{sentence.removesuffix('.')}." for sentence in told]


def facts_of(speed: Sequence[SpeedTest], swap: Sequence[SwapTest], ranking: Ranking | None) -> dict[str, str]:
    """What all results have in common, or how they differ."""
    results = [*([] if ranking is None else [ranking]), *speed, *swap]
    steps = [one.steps if isinstance(one.steps, int) else one.steps[-1] for one in results]
    told = {
        "problem": [one.problem for one in results],
        "seeds": [str(one.seeds) for one in results],
        "steps": [f"{number:,}" for number in steps],
        "torch": [torch.__version__],
    }
    return {name: ", ".join(dict.fromkeys(values)) for name, values in told.items()}
