"""What a cause is found from: numbers about a window and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from truestep.loss.accumulation._comparison import Comparison, Fit

CLOSE: Final = 1e-3  # how near a factor must be to the number it is named after
TALLY: Final = "sum the losses, count, and divide once at the end of the window: `truestep.loss.Tally` does"
DIVIDE_BY_THOSE_THERE: Final = f"divide by the number of micro-batches really there, or {TALLY}"
JUDGEABLE: Final = 0.5  # a loop that varies by more could hide a factor of two
BLURRED: Final = 0.1  # what no rounding may be taken for, however coarse: a tenth of a gradient has a cause


class Cause(NamedTuple):
    """What is wrong, and what to do about it ("" where nothing is)."""

    sentence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Window:
    """What is known about a window of micro-batches.

    Args:
        num_micro_batches: k, those really there.
        weight: Sum of all weights (kept targets), if `loss_fn` gives them.
        counts: Numbers of terms that a loss could have summed over: items, targets, kept targets.
        kept: Pairs of what a mean may be over (kept targets) and what it may be divided by instead (all targets).
        lengths: Lengths T of label sequences.
        batch_norm: Whether a BatchNorm uses the statistics of its batch.
        ranks: Over how many ranks the model averages its gradients.
        loss: The union batch's mean loss, if it is known.
    """

    num_micro_batches: int
    weight: float | int | None = None
    counts: tuple[float | int, ...] = ()
    kept: tuple[tuple[float | int, float | int], ...] = ()
    lengths: tuple[int, ...] = ()
    batch_norm: bool = False
    ranks: int = 1
    loss: float | None = None

    @property
    def totals(self) -> tuple[float | int, ...]:
        """What a sum would be too large by: the weight if it is known."""
        return self.counts if self.weight is None else (self.weight,)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All numbers that a cause is found from.

    Args:
        window: The window.
        found: Accumulated gradient against that of the union batch.
        tolerance: Largest relative error that counts as the same.
        floor: Relative difference of two runs of the loop.
        short: The same for half of the window.
        yours: Accumulated gradient as a combination of the micro-batches' gradients, if it was looked at.
        union: The union batch's gradient as such a combination.
        moved: Relative difference of what the loop left on half of the window and on all of it, if it was looked at.
    """

    window: Window
    found: Comparison
    tolerance: float
    floor: float = 0.0
    short: Evidence | None = None
    yours: Fit | None = None
    union: Fit | None = None
    moved: float | None = None

    @property
    def same(self) -> bool:
        """Whether the window's own gradient is right."""
        return self.found.relative_error <= self.tolerance < JUDGEABLE

    @property
    def judged(self) -> bool:
        """Whether right and wrong can be told apart here: a gradient that is no number is wrong."""
        norm, reference = self.found.norm, self.found.reference_norm
        if self.window.weight == 0:
            return False
        if not (norm < float("inf") and reference < float("inf")):
            return True
        return reference > 0 and (norm == 0 or self.tolerance < JUDGEABLE)

    @property
    def straight(self) -> bool:
        """Whether the accumulated gradient is a multiple of the reference, up to rounding."""
        return self.found.turned <= min(3 * self.tolerance, max(self.tolerance, BLURRED))

    @property
    def near(self) -> float:
        """Relative size of what rounding may leave in a combination."""
        return max(min(2 * self.tolerance, BLURRED), CLOSE)

    def is_factor(self, full: float | int, half: float | int) -> bool:
        """Whether the window's factor is `full` and that of its half `half`."""
        halves = self.short is None or is_close(self.short.found.factor, half, self.short.tolerance)
        return is_close(self.found.factor, full, self.tolerance) and halves


def is_close(found: float | int, expected: float | int, tolerance: float) -> bool:
    """Whether a factor is the number it might be named after."""
    return abs(found - expected) <= max(CLOSE, tolerance) * abs(expected)


Rule = Callable[[Evidence], Cause | None]  # a cause, or None where it is another
