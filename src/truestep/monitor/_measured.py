"""Covariate shift of a watched model, measured when the user asks for it: by all ranks, or by none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from truestep.conditioning.shift import CovariateShift, covariate_shift
from truestep.core import warn
from truestep.monitor._lane import Lane
from truestep.monitor._ranks import Ranks
from truestep.monitor._shift import ShiftRows
from truestep.monitor.sinks import Store

LossFn = Callable[[Any, Any], Any]
LONGEST = 300  # characters of an error in a warning: torch's may hold a page


class OnAnotherRankError(RuntimeError):
    """Nothing is wrong here."""


class Passes:
    """Batches to be gone through `count` times, after each of which the ranks hear whether one of them failed.

    A rank that failed would not come to the sums that the others add up next, and they would wait for it; or worse,
    its next gradients would be added to their sums. Where tensors are sharded a forward pass is itself a collective: a
    rank that fails there alone leaves the others waiting, as it would in training.

    Args:
        batches: Any iterable; an iterator is kept as a list from the first pass on.
        count: How often they are gone through before all is added up.
        any_failed: Takes `failed` of this rank and returns that of all of them.
    """

    def __init__(self, batches: Iterable[Any], count: int, any_failed: Callable[..., bool]) -> None:
        self._batches, self._left, self._any_failed = batches, count, any_failed

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._batches, Iterator):
            self._batches = list(self._batches)
        yield from self._batches
        self.end(failed=False)

    def end(self, *, failed: bool) -> None:
        """End a pass here and hear of the others; nothing is said after the last one.

        Raises:
            OnAnotherRankError: If another rank failed, and this one did not.
        """
        if not self._left:
            return
        self._left -= 1
        if self._any_failed(failed=failed):
            self._left = 0
            if not failed:
                msg = "it failed on another rank"
                raise OnAnotherRankError(msg)


def measured(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: LossFn | None,
    *,
    ranks: Ranks,
    lane: Lane,
    store: Store | None,
) -> CovariateShift | None:
    """What was found, put into `store` at the lane's present step; None, after one warning, where something failed."""
    index = lane.recorder.index
    try:
        found = _by_all(model, batches, loss_fn, ranks)
        if store:
            store.shift(ShiftRows(lane.recorder.name, index, found.train_mode, found.batches, found.rows()))
        return found
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody's run ends for a measurement
        why = _told(error)
    if store:
        store.event("unmeasured", f"covariate shift: {why}", lane.number, index)
    warn(f"truestep: covariate shift was not measured before step {index} ({why}); training goes on", stacklevel=4)
    return None


def _by_all(model: nn.Module, batches: Iterable[Any], loss_fn: LossFn | None, ranks: Ranks) -> CovariateShift:
    passes = Passes(batches, 1 if loss_fn is None else 2, ranks.any_failed)
    try:
        return covariate_shift(model, passes, loss_fn=loss_fn)
    except Exception:
        passes.end(failed=True)
        raise


def _told(error: Exception) -> str:
    """The error in one line."""
    text = " ".join(str(error).split())
    text = text if isinstance(error, OnAnotherRankError) else f"{type(error).__name__}: {text}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
