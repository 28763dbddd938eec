"""From the numbers of a comparison to a sentence that names what is wrong with a loop, and one that says what to do.

Every rule is a function of `Evidence` alone; the first that speaks is believed. A factor is named only if it also
explains what half of the window gave: a loop that divides by a constant and one that forgets to divide differ there.
"""

from __future__ import annotations

from typing import Final

from truestep.loss.accumulation._directions import DIRECTIONS
from truestep.loss.accumulation._evidence import DIVIDE_BY_THOSE_THERE, JUDGEABLE, Cause, Evidence, Rule, is_close
from truestep.loss.accumulation._factors import FACTORS

SAME: Final = "the accumulated gradient is that of the union batch"


def cause(evidence: Evidence) -> Cause:
    """The first rule that speaks."""
    found, tolerance = evidence.found, evidence.tolerance
    straight = evidence.straight and abs(found.factor - 1) > tolerance / 2
    rules = (*FIRST, *(FACTORS if straight else DIRECTIONS))
    return next(told for rule in rules if (told := rule(evidence)) is not None)


def with_batch_norm(error: float, frozen: Cause, *, same: bool) -> Cause:
    """The cause where BatchNorm takes part; `frozen` and `same`: what was found with its statistics held fixed.

    Example:
        >>> print(with_batch_norm(0.25, Cause("", ""), same=True).sentence)
        BatchNorm takes its statistics from each micro-batch, so no split can be exact (relative error 0.25); with its \
statistics held fixed the loop is right
    """
    told = (
        f"BatchNorm takes its statistics from each micro-batch, so no split can be exact (relative error {error:.2g})"
    )
    if same:
        remedy = (
            "use GroupNorm, or freeze BatchNorm's statistics; put BatchNorm in eval mode before this check to have "
            "the loop's scale judged alone"
        )
        return Cause(f"{told}; with its statistics held fixed the loop is right", remedy)
    return Cause(f"{frozen.sentence} (with BatchNorm's statistics held fixed; besides, {told})", frozen.remedy)


def _no_weight(e: Evidence) -> Cause | None:
    if e.window.weight != 0:
        return None
    told = "nothing to compare: the weights of the window sum to 0, no target is kept"
    return Cause(told, "give micro-batches that have targets; in training, skip such a step (`truestep.loss.guard`)")


def _not_finite(e: Evidence) -> Cause | None:
    numbers = {"accumulated": e.found.norm, "union batch's": e.found.reference_norm}
    wrong = [name for name, norm in numbers.items() if not norm < float("inf")]
    if not wrong:
        return None
    remedy = "look for a window or micro-batch without any kept target, an overflow, or the logarithm of zero"
    return Cause(f"not finite: the {' and the '.join(wrong)} gradient has nan or inf", remedy)


def _no_gradient(e: Evidence) -> Cause | None:
    if e.found.reference_norm == 0:
        return Cause(
            "nothing to compare: the union batch's gradient is zero",
            "give micro-batches that have something to learn from",
        )
    if e.found.norm == 0:
        remedy = "`backward` must end before `optimizer.zero_grad()`, and call backward on this very model"
        return Cause("the loop leaves no gradient in `.grad`", remedy)
    return None


def _not_judged(e: Evidence) -> Cause | None:
    if e.tolerance < JUDGEABLE:
        return None
    if e.floor < e.tolerance / 10:
        told = "the micro-batches' gradients cancel: what is left of them is rounding, and nothing can be judged"
        return Cause(told, "check at other weights, such as those before training")
    told = (
        f"the loop itself varies by {e.floor:.2g} of its gradient from one run to the next: nothing below can be judged"
    )
    return Cause(told, "draw no random numbers in it, or the same ones at every call")


def _right(e: Evidence) -> Cause | None:
    if not (e.same and (e.short is None or e.short.same)):
        return None
    told = SAME
    if e.floor > e.tolerance / 4:
        told += f", as far as a loop that varies by {e.floor:.2g} from run to run can show"
    if e.window.batch_norm and e.window.num_micro_batches > 1:
        told += "; but BatchNorm takes its statistics from each micro-batch, so no split sees what one batch would"
    return Cause(told, "")


def _deaf(e: Evidence) -> Cause | None:
    """The same gradient from half of the window, whose direction it is not."""
    if e.short is None or e.short.straight or e.moved is None or not e.moved <= e.tolerance:
        return None
    if abs(e.found.relative_error - e.short.found.relative_error) <= e.tolerance:
        return None  # both halves of the window are alike
    told = "the loop ignores its argument: half of the window left the same gradient as all of it"
    return Cause(told, "let `backward` run over the `micro_batches` that it is given, not over a loader of its own")


def _short_window(e: Evidence) -> Cause | None:
    if not e.same or e.short is None:
        return None
    k, half = e.window.num_micro_batches, e.short.window.num_micro_batches
    if not is_close(e.short.found.factor, half / k, e.short.tolerance):
        return Cause(f"on {half} of the {k} micro-batches alone: {cause(e.short).sentence}", cause(e.short).remedy)
    told = f"short window: the loop divides by {k} even if only {half} micro-batches are there"
    return Cause(f"{told}, which gives {e.short.found.factor:.3f} of the gradient", DIVIDE_BY_THOSE_THERE)


def _sum_in_loss_fn(e: Evidence) -> Cause | None:
    k = e.window.num_micro_batches
    summed = e.union is not None and e.union.mean_error <= e.near and is_close(e.union.mean_factor, k, e.near)
    if k == 1 or not summed:
        return None
    told = (
        f"sum reduction: `loss_fn` gives a sum, which grows with the batch; the loop gives {e.found.factor:.3f} of it"
    )
    return Cause(told, "let `loss_fn` give the mean, or (losses, weights)")


FIRST: Final[tuple[Rule, ...]] = (
    _no_weight,
    _not_finite,
    _no_gradient,
    _not_judged,
    _right,
    _deaf,
    _short_window,
    _sum_in_loss_fn,
)
