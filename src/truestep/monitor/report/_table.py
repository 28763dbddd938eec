r"""First quarter against last, and the change of the angle split into what changed it.

By definition of its last factor, the angle of a step is a product of four,

.. math:: \theta = \|g\| \cdot \frac{\|d\|}{\|g\|} \cdot \frac{1}{\|w\|} \cdot \frac{\theta \|w\|}{\|d\|},

so the change of its logarithm is the sum of theirs. For SGD, plain or with momentum, :math:`d \sim \eta g`: the second
factor is lr, momentum and decay; the fourth is how much of the step turned the weights instead of stretching them.
Over the steps of a quarter each is a root of a mean of squares, and the third, relative update over
:math:`\|d\|`, the mean of :math:`1/\|w\|^2` weighted by :math:`\|d\|^2`, so the product holds for the means too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite, log, nan
from statistics import median

from truestep.monitor.report._queries import Taken
from truestep.monitor.report._record import INVARIANT, Block


@dataclass(frozen=True, slots=True)
class Split:
    """Changes of a logarithm: that of the angle, and the four that add up to it."""

    angle: float
    gradient: float
    settings: float
    norm: float
    turning: float


@dataclass(frozen=True, slots=True)
class Row:
    """A block in the first and last quarter of the run; None where it had no recorded step there."""

    block: Block
    first: Taken | None
    last: Taken | None

    @property
    def targeted(self) -> bool:
        """Whether the predicted equilibrium may hold: the block is scale invariant, or nobody has looked."""
        return self.block.symmetry is None or self.block.symmetry in INVARIANT

    @property
    def apart(self) -> bool:
        """Whether there are two quarters to compare; a run of a step or two has one."""
        return self.first is not None and self.last is not None and self.first.last < self.last.first

    @property
    def split(self) -> Split | None:
        """Why the angle changed; None where there are no two quarters with an angle, a gradient and a step."""
        return split(self.first, self.last) if self.first and self.last and self.apart else None


def split(first: Taken, last: Taken) -> Split | None:
    """Change of log(angle) from `first` to `last` and its four summands; None where one of them is no number."""
    angle, gradient, step, relative = (
        _log_ratio(now, before)
        for now, before in (
            (last.angle, first.angle),
            (last.g, first.g),
            (last.d, first.d),
            (last.relative, first.relative),
        )
    )
    parts = Split(angle, gradient, settings=step - gradient, norm=relative - step, turning=angle - relative)
    return parts if isfinite(angle + gradient + step + relative) else None


@dataclass(frozen=True, slots=True)
class Headline:
    """The run in one line: medians over its layers in the last quarter, and the ends of their range.

    `lrs` are what was asked in the last quarter, `lrs_before` in the first; `before` is the first quarter's angle,
    `ratio` the angle over the predicted one, `effective_change` the factor from the first quarter's effective lr.
    """

    layers: int
    lrs: tuple[float, ...]
    lrs_before: tuple[float, ...]
    angle: float
    before: float
    ratio: float
    effective_change: float
    slowest: tuple[str, float]
    fastest: tuple[str, float]


def headline(rows: list[Row]) -> Headline | None:
    """Medians over the weights among the rows (over all rows if there is no weight); None without any angle."""
    told = [row for row in rows if row.last is not None and isfinite(row.last.angle)]
    told = [row for row in told if row.block.rank[0] < 2] or told
    if not told:
        return None
    pairs = [(row, row.last) for row in told if row.last is not None]
    both = [(row.first, row.last) for row in told if row.first and row.last and row.apart]
    ends = sorted((last.angle, row.block.name) for row, last in pairs)
    return Headline(
        layers=len(told),
        lrs=_lrs([last for _, last in pairs]),
        lrs_before=_lrs([first for first, _ in both]),
        angle=median(last.angle for _, last in pairs),
        before=_median([first.angle for first, _ in both]),
        ratio=_median([last.angle / last.predicted for row, last in pairs if row.targeted]),
        effective_change=exp(_median([_log_ratio(last.effective_lr, first.effective_lr) for first, last in both])),
        slowest=(ends[0][1], ends[0][0]),
        fastest=(ends[-1][1], ends[-1][0]),
    )


def _lrs(taken: list[Taken]) -> tuple[float, ...]:
    """The distinct learning rates to three digits, the greatest first."""
    return tuple(sorted({float(f"{t.lr:.3g}") for t in taken if isfinite(t.lr)}, reverse=True))


def _median(values: list[float]) -> float:
    finite = [v for v in values if isfinite(v)]
    return median(finite) if finite else nan


def _log_ratio(now: float, before: float) -> float:
    return log(now) - log(before) if now > 0 and before > 0 else nan
