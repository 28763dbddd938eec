"""Rules for a gradient that points the right way and has the wrong length: each names one factor."""

from __future__ import annotations

from math import log2
from typing import Final

from truestep.loss.accumulation._evidence import CLOSE, DIVIDE_BY_THOSE_THERE, TALLY, Cause, Evidence, Rule, is_close

LOSS_SCALE: Final = 256  # a power of two from here on looks like a GradScaler's
UNCLIPPED: Final = 'if that is meant, check the loop up to and without clipping, and with scale="mean"'
COUNT_KEPT: Final = f"count neither padding nor ignored targets, and weights as what they weigh; {TALLY}"
UNSCALE: Final = (
    "looks like a GradScaler's: divide `.grad` by `scaler.get_scale()` at the end of `backward` "
    "(not `scaler.unscale_`, which refuses the check's second run)"
)


def _ascent(e: Evidence) -> Cause | None:
    if e.found.factor > 0:
        return None
    told = f"wrong sign: the gradient is {e.found.factor:.3f} times that of the union batch, a step goes uphill"
    return Cause(told, "look for a loss divided by a negative number (by itself, say)")


def _missing_division(e: Evidence) -> Cause | None:
    k = e.window.num_micro_batches
    if k == 1 or not e.is_factor(k, e.short.window.num_micro_batches if e.short else 0):
        return None
    times = f"the gradient is {e.found.factor:.3f} times that of the union batch"
    told = f"missing division: {k} micro-batches are added, not averaged; {times}"
    return Cause(told, f"divide each loss by {k} if they are of equal size; in any case, {TALLY}")


def _sum_reduction(e: Evidence) -> Cause | None:
    halves = e.short.window.totals if e.short else e.window.totals
    k, k_half = e.window.num_micro_batches, e.short.window.num_micro_batches if e.short else 1
    remedy = f"use the mean, or {TALLY}"
    for total, half in zip(e.window.totals, halves, strict=False):
        told = f"sum reduction: the losses are summed over {total:g} terms"
        if e.is_factor(total, half):
            return Cause(f"{told} and not divided, the gradient is {e.found.factor:.4g} times too large", remedy)
        if e.is_factor(total / k, half / k_half):
            divided = f"divided by the {k} micro-batches only"
            return Cause(f"{told} and {divided}, the gradient is {e.found.factor:.4g} times too large", remedy)
    return None


def _constant_divisor(e: Evidence) -> Cause | None:
    k, k_half = e.window.num_micro_batches, e.short.window.num_micro_batches if e.short else 0
    divisor = round(k / max(e.found.factor, 1e-9))
    if divisor < 2 or divisor == k or not e.is_factor(k / divisor, k_half / divisor):
        return None
    kind = "short window" if divisor > k else "wrong divisor"
    told = f"{kind}: the loop divides by {divisor}, but the window has {k} micro-batches: {e.found.factor:.3f} of"
    return Cause(f"{told} the gradient", DIVIDE_BY_THOSE_THERE)


def _divided_twice(e: Evidence) -> Cause | None:
    k = e.window.num_micro_batches
    if k == 1 or not e.is_factor(1 / k, 1 / e.short.window.num_micro_batches if e.short else 0):
        return None
    told = f"divided twice: the gradient is {e.found.factor:.3f} of the union batch's, 1/{k}"
    return Cause(told, f"divide by {k} once: Accelerate, Lightning and DeepSpeed do it for their users")


def _shifted_label(e: Evidence) -> Cause | None:
    f = e.found.factor
    for length in e.window.lengths:
        if e.is_factor((length - 1) / length, (length - 1) / length) and abs((1 - f) * length - 1) <= 0.05:
            told = f"looks like a shifted label that is counted: {f:.4f} = ({length} - 1)/{length}"
            return Cause(told, "of T labels T - 1 are predicted: count those of `labels[:, 1:]`")
    return None


def _wrong_count(e: Evidence) -> Cause | None:
    half = e.short.window if e.short else e.window
    if not (e.window.weight and half.weight):
        return None
    for count, half_count in zip(e.window.counts, half.counts, strict=False):
        if count and half_count and e.is_factor(e.window.weight / count, half.weight / half_count):
            told = f"wrong count: divided by {count:g} terms, but the weights sum to {e.window.weight:g}"
            return Cause(told, COUNT_KEPT)
    return None


def _ignored_counted(e: Evidence) -> Cause | None:
    half = e.short.window if e.short else e.window
    for (kept, counted), (kept_half, counted_half) in zip(e.window.kept, half.kept, strict=False):
        known = 0 < kept < counted and kept_half > 0 and e.window.weight in {None, kept}
        if known and e.is_factor(kept / counted, kept_half / counted_half):
            told = f"looks like ignored targets that are counted: {e.found.factor:.4f} = {kept:g}/{counted:g}"
            return Cause(told, COUNT_KEPT)
    return None


def _loss_scale(e: Evidence) -> Cause | None:
    k, k_half = e.window.num_micro_batches, e.short.window.num_micro_batches if e.short else 1
    for times, times_half in ((1, 1), (k, k_half)):
        scale = 2 ** round(log2(e.found.factor / times))
        if scale >= LOSS_SCALE and e.is_factor(scale * times, scale * times_half):
            told = f"a constant factor: the gradient is {scale} times that of the union batch, a power of two"
            undivided = "" if times == 1 else f"; and a missing division, {k} micro-batches are added, not averaged"
            return Cause(f"{told}{undivided}", UNSCALE + (f"; and divide each loss by {k}" if undivided else ""))
    return None


def _divided_by_loss(e: Evidence) -> Cause | None:
    loss, half = e.window.loss, e.short.window.loss if e.short else e.window.loss
    if not (loss and half and 0 < loss < float("inf") and 0 < half < float("inf")):
        return None
    ways = (1.0, 'the loss itself (as scale="unit" does, "ref" in its first window)'), (0.5, 'its root (scale="sqrt")')
    for power, name in ways:
        if e.is_factor(loss**-power, half**-power):
            told = f"divided by {name}: the direction is right, the gradient is {e.found.factor:.4g} times that of"
            return Cause(f"{told} the union batch, whose loss is {loss:.4g}", UNCLIPPED)
    return None


def _clipped(e: Evidence) -> Cause | None:
    if e.short is None or not e.short.straight or e.is_factor(e.found.factor, e.found.factor):
        return None
    norm, half = e.found.norm, e.short.found.norm
    if abs(norm - half) > max(CLOSE, e.tolerance / 2) * norm:
        return None
    told = f"clipped: on all of the window and on half of it the gradient has norm {norm:.4g}; its direction is right"
    return Cause(told, UNCLIPPED.replace("if that is meant, ", "") + ' (scale="ngd" makes such gradients too)')


def _constant_factor(e: Evidence) -> Cause | None:
    f = e.found.factor
    if not e.is_factor(f, f):
        half = e.short.found.factor if e.short else f
        told = f"a factor that depends on the window: {f:.4g} on all of it, {half:.4g} on its first half"
        remedy = f'clipping does that, and scale="ref", "unit", "sqrt" or "ngd": {UNCLIPPED}; if not, {TALLY}'
        return Cause(f"{told}; the direction is right, the loop rescales the step", remedy)
    told = f"a constant factor: the gradient is {f:.5g} times that of the union batch"
    if 1e-9 < f < 1 and is_close(1 / f, round(1 / f), e.tolerance):
        return Cause(
            f"{told}, 1/{round(1 / f)}", "look for a division too many: by ranks, by classes, by a loss weight"
        )
    remedy = 'look for a weight on the loss, its unit (scale="ref"), a division too many, or clipping inside the loop'
    return Cause(told, remedy)


FACTORS: Final[tuple[Rule, ...]] = (
    _ascent,
    _missing_division,
    _sum_reduction,
    _constant_divisor,
    _divided_twice,
    _shifted_label,
    _wrong_count,
    _ignored_counted,
    _loss_scale,
    _divided_by_loss,
    _clipped,
    _constant_factor,
)
