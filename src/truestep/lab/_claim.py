"""What the lab judges: a sentence of a source, a threshold written before the run, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from truestep.lab._interval import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measurement: TypeAlias = dict[str, float | list[float]]  # what one seed gave: numbers, and curves to draw


class Verdict(StrEnum):
    """What the measurements say about a claim; the value is the word.

    Example:
        >>> Verdict("PARTLY") is Verdict.PARTLY
        True
    """

    SUPPORTED = "SUPPORTED"  # holds as the sentence says it
    PARTLY = "PARTLY"  # holds under narrower conditions than the sentence says; the reason names them
    REFUTED = "REFUTED"  # fails under the conditions that the source itself gives
    INCONCLUSIVE = "INCONCLUSIVE"  # the experiment cannot tell


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the sentence that gives its reason, and the numbers behind it.

    Args:
        verdict: One of the four words.
        reason: One sentence or two, with the numbers in it.
        intervals: Mean and 95 % interval over the seeds; a later run is compared with them.
        numbers: What is no mean over seeds, such as a worst case; kept, never compared.
    """

    verdict: Verdict
    reason: str
    intervals: Mapping[str, Interval] = field(default_factory=dict[str, Interval])
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of a source, and the experiment that judges it.

    Args:
        name: Slug, the name of the claim's module.
        source: The document's id, then the document and the place in it, `"001: lecture 5, slide ..."`.
        sentence: The source's own words, formulas set in Unicode.
        threshold: What would make which verdict, written before the run.
        run: `run(seed, device)` gives one seed's measurement, ready for JSON.
        judge: Turns the measurements of all seeds into a verdict.
        plot: Draws the measurements of all seeds.
        seeds: How many seeds a result needs; they are 0, 1, 2, ...
    """

    name: str
    source: str
    sentence: str
    threshold: str
    run: Callable[[int, str], Measurement]
    judge: Callable[[Sequence[Measurement]], Judgement]
    plot: Callable[[Sequence[Measurement]], Figure]
    seeds: int = 8


def scalars(measurements: Sequence[Measurement], name: str) -> list[float]:
    """One measured number per seed.

    Example:
        >>> scalars([{"ratio": 1.5}, {"ratio": 1.25}], "ratio")
        [1.5, 1.25]
    """
    return [value for m in measurements if not isinstance(value := m[name], list)]


def curves(measurements: Sequence[Measurement], name: str) -> list[list[float]]:
    """One measured curve per seed.

    Example:
        >>> curves([{"norm": [1.0, 2.0]}], "norm")
        [[1.0, 2.0]]
    """
    return [value for m in measurements if isinstance(value := m[name], list)]
