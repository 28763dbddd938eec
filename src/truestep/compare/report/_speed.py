"""Speed tests as a section: verdicts, what was measured, and the curves that show it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isfinite
from typing import Final

from truestep.compare.report._section import Panel, Section, Table, span, words
from truestep.compare.report._speed_figures import curves, distances, residuals
from truestep.compare.speed import SpeedTest

TITLE: Final = "Better, or faster a step?"
LEAD: Final = (
    "Is B just A at another lr? A is trained at multiples of its lr, B at its own, each with its own order of the "
    "data. Distances are root mean squares of the difference between the logarithms of the losses, in nats: 0.05 is "
    "5 % of the loss. The floor is the distance between two copies of B. SPED-UP: at the best multiple they are equal; "
    "SAME: at A's own lr; DIFFERENT: at none; UNDECIDED: these seeds do not tell; UNBOUNDED: the best "
    "multiple is the first or last that was tried."
)
CURVES: Final = (
    "Geometric means over the seeds, on the probe. Is B under the dashed A? Grey: A at other multiples of its lr. "
    "B's copy is B on another order of the data."
)
DISTANCES: Final = (
    "The lowest is the most alike. Blue: A as it was trained. Orange: the best, which may lie between two of these and "
    "have a lag. Below the dashed line counts as equal; two copies of B are as far apart as the dotted one."
)
RESIDUALS: Final = (
    "Above 0 A's loss is the higher one; 0.05 nats are 5 %. Line: mean over the seeds; band: the least seed to the "
    "greatest."
)


def speed_sections(tests: Sequence[SpeedTest]) -> list[Section]:
    """The verdicts of several tests beside each other, then a section for each test."""
    if len(tests) == 1:
        return [_section("speed", TITLE, LEAD, tests[0], 0)]
    return [
        Section("speed", TITLE, LEAD, (_verdicts(tests),)),
        *(
            _section(f"speed-{number}", f"{test.a} → {test.b}", f"{test.sentence}.", test, number)
            for number, test in enumerate(tests)
        ),
    ]


def _section(id_: str, title: str, lead: str, test: SpeedTest, number: int) -> Section:
    return Section(id_, title, lead, (_details(test),), _panels(test, number), _warnings(test))


def _warnings(test: SpeedTest) -> tuple[str, ...]:
    """Two that have not begun to train are equal at almost any lr."""
    if not test.hardly_moved:
        return ()
    moved, equal = words(test.moved), words(test.threshold)
    told = f"B's loss changes by {moved} nats in {test.steps[-1]:,} steps and {equal} count as equal"
    return (f"{test.a} → {test.b}: {told}, so that A is like it at many lrs; take more steps, or a smaller margin",)


def _verdicts(tests: Sequence[SpeedTest]) -> Table:
    head = ("A", "B", "verdict", "multiplier of A's lr", "lag, steps", "residual, nats", "counts as equal, nats")
    rows = [
        (
            test.a,
            test.b,
            test.verdict,
            span(test.multiplier, test.interval),
            words(round(test.lag, 1)),
            span(test.residual, test.residual_interval),
            words(test.threshold),
        )
        for test in tests
    ]
    return Table(head, tuple(rows))


def _details(test: SpeedTest) -> Table:
    """One test, a row for each quantity, and what the quantity is."""
    rows = [
        ("verdict", test.verdict, f"{test.seeds} seeds, {test.steps[-1]:,} steps of {test.problem}"),
        ("multiplier", span(test.multiplier, test.interval), f"of A's lr, {words(test.lr_a)}, with its 95 % interval"),
        (
            "lag",
            f"{words(round(test.lag, 1))} steps",
            f"how far B is behind; no more than momentum explains, {words(test.largest_lag)}",
        ),
        ("residual", f"{span(test.residual, test.residual_interval)} nats", "distance at that multiplier and lag"),
        ("at A's own lr", f"{words(test.residual_at_one)} nats", "distance at multiplier 1"),
        ("floor", f"{words(test.floor)} nats", "distance between two copies of B"),
        ("counts as equal", f"{words(test.threshold)} nats", "the margin, or 1.5 floors where that is more"),
        ("explained", _share(test.explained), "of the squared distance at multiplier 1; never decisive"),
        ("early, late", f"{words(test.early)}, {words(test.late)} nats", "log A − log B, first and second half"),
    ]
    if test.path is not None:
        path = f"{_share(test.path.distance)} ({_share(test.path.distance_at_one)} at A's own lr)"
        rows.append(("path", path, f"A's distance from B's path over its length; two copies {_share(test.path.floor)}"))
    return Table(("quantity", "measured", "what it is"), tuple(rows), f"A = {test.a}, B = {test.b}")


def _share(value: float) -> str:
    return f"{words(100 * value)} %" if isfinite(value) else "–"


def _panels(test: SpeedTest, number: int) -> tuple[Panel, ...]:
    return (
        Panel(f"curves-{number}", "Loss over the steps", CURVES, partial(curves, test)),
        Panel(f"distances-{number}", "Distance at each multiple of A's lr", DISTANCES, partial(distances, test)),
        Panel(f"residuals-{number}", "What the best multiple leaves, by steps", RESIDUALS, partial(residuals, test)),
    )
