"""Swap tests as a section: what the length of the steps does and what their direction does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isfinite
from typing import Final

from truestep._page import Figure, axis_of, loss_axis, numbers
from truestep.compare.report._lines import OF_A, OF_B, OTHER, finite, geometric_mean, line, over_steps
from truestep.compare.report._section import Panel, Section, Table, span, words
from truestep.compare.statistics import Interval
from truestep.compare.swap import SwapTest

LEAD: Final = (
    "B takes A's place, one part at a time: directions of one at the step lengths of the other, fed the same "
    "gradients. An effect is the change of the log loss, averaged over the run, in nats: −0.1 is a loss lower by "
    "10 %. Length and direction add up to the total; the interaction, which only both at once have, is "
    "shared out equally between them. It holds for the norm in which lengths are taken."
)
ARMS_NOTE: Final = (
    "Geometric means over the seeds, on the probe. Colour: whose direction; dashed: at the other's length. Lines of "
    "one colour that part show the length's effect, two colours at one length the direction's."
)
EFFECTS_NOTE: Final = (
    "Left of 0 B's part makes the loss smaller, right of 0 larger. Bars: 95 % intervals over the seeds."
)
OVER: Final = {
    "global": "over all weights",
    "group": "in each group",
    "tensor": "in each tensor",
    "unit": "in each unit",
}
EFFECTS: Final = ("total", "length", "direction", "interaction")


def swap_section(tests: Sequence[SwapTest]) -> Section:
    """A table for each pair, a column for each norm; two figures for each test."""
    pairs: dict[str, list[SwapTest]] = {}
    for test in tests:
        pairs.setdefault(f"A = {test.a}, B = {test.b}", []).append(test)
    panels: list[Panel] = []
    for number, test in enumerate(tests):
        named = f"{test.a} → {test.b}, " if len(pairs) > 1 else ""
        at = f"{named}lengths in {lengths(test)}"
        panels.append(Panel(f"arms-{number}", f"The four arms, {at}", ARMS_NOTE, partial(arms, test)))
        panels.append(Panel(f"effects-{number}", f"Effects, {at}", EFFECTS_NOTE, partial(effects, test)))
    tables = tuple(_table(title, of_pair) for title, of_pair in pairs.items())
    return Section("swap", "Length or direction?", LEAD, tables, tuple(panels))


def lengths(test: SwapTest) -> str:
    """In what the lengths of the steps were taken."""
    return f"{test.norm}, {OVER.get(test.scope, test.scope)}"


def _table(title: str, tests: Sequence[SwapTest]) -> Table:
    rows = [(effect, *(_span(getattr(test, effect)) for test in tests)) for effect in EFFECTS]
    rows.append(("length's share", *(_share(test.length_share) for test in tests)))
    return Table(("effect, nats", *(f"lengths in {lengths(test)}" for test in tests)), tuple(rows), title)


def arms(test: SwapTest) -> Figure:
    """Colour tells whose direction, a dash the other's length."""
    colours, names = {"a": OF_A, "b": OF_B}, {"a": "A", "b": "B"}
    means = {arm: geometric_mean(losses) for arm, losses in test.losses.items()}
    data = [
        line(
            f"{names[direction]}'s direction, {names[length]}'s length",
            test.steps,
            mean,
            "loss %{y:.4~g}",
            colours[direction],
        )
        | {"line": {"color": colours[direction], "width": 1.8, "dash": "solid" if direction == length else "dash"}}
        for (direction, length), mean in means.items()
    ]
    shown = finite([value for mean in means.values() for value in mean])
    return {"data": data, "layout": over_steps(test.steps, axis_of("loss on the probe", None, loss_axis(shown)))}


def effects(test: SwapTest) -> Figure:
    """A point with its interval for each effect."""
    intervals: list[Interval] = [getattr(test, effect) for effect in EFFECTS]
    means = [one.mean for one in intervals]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": numbers(means),
        "y": list(EFFECTS),
        "marker": {"size": 9},
        "line": {"color": OF_A},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": numbers([one.high - one.mean for one in intervals]),
            "arrayminus": numbers([one.mean - one.low for one in intervals]),
            "color": OTHER,
        },
        "customdata": [_span(one) for one in intervals],
        "hovertemplate": "%{y}: %{customdata} nats<extra></extra>",
    }
    layout = {
        "height": 300,
        "hovermode": "closest",
        "showlegend": False,
        "margin": {"l": 90, "r": 14, "t": 22, "b": 42},
        "xaxis": {"title": {"text": "change of the log loss, nats"}, "zeroline": True},
        "yaxis": {"autorange": "reversed", "type": "category"},
    }
    return {"data": [trace], "layout": layout}


def _span(interval: Interval) -> str:
    return span(interval.mean, (interval.low, interval.high))


def _share(share: Interval) -> str:
    mean, low, high = (words(100 * value) for value in (share.mean, share.low, share.high))
    return f"{mean} % [{low}, {high}]" if isfinite(share.mean) else "–"
