"""Rules for a gradient that points elsewhere: which weights the micro-batches have in it, and should have."""

from __future__ import annotations

from typing import Final

from truestep.loss.accumulation._evidence import BLURRED, CLOSE, TALLY, Cause, Evidence, Rule, is_close


def _lost(e: Evidence) -> Cause | None:
    yours, union = (fit.weights if fit else None for fit in (e.yours, e.union))
    if not (yours and union):
        return None
    scale = max(map(abs, yours))
    trace = scale * max(min(e.tolerance / 2, BLURRED), CLOSE)  # less than clipping leaves
    gone = [i for i, (c, share) in enumerate(zip(yours, union, strict=True)) if abs(c) < trace < abs(share)]
    if not gone:
        return None
    names = ", ".join(str(i + 1) for i in gone)
    told = f"lost micro-batches: of {e.window.num_micro_batches}, number {names} left no trace in the gradient"
    return Cause(told, "look for `zero_grad()` inside the loop, or a backward that is not called each time")


def _mean_of_means(e: Evidence) -> Cause | None:
    yours, union, k = e.yours, e.union, e.window.num_micro_batches
    if not (yours and union) or yours.mean_error > e.near or union.outside > e.near:
        return None
    told = f"mean of means: each of {k} micro-batches counts alike"
    if union.weights:
        told += f", but their shares of the union batch are {_listed(union.weights)}"
    if is_close(yours.mean_factor, k, e.near):
        told += f"; and a missing division, the mean of means comes {k} times"
    elif not is_close(yours.mean_factor, 1, e.near):
        told += f"; and the mean of means comes {yours.mean_factor:.4g} times"
    return Cause(told, TALLY)


def _batch_coupled(e: Evidence) -> Cause | None:
    if e.union is None or e.union.outside <= e.near:
        return None
    told = (
        f"batch-coupled loss: {e.union.outside:.2g} of the union batch's gradient is in no micro-batch's gradient "
        "(in-batch negatives, batch statistics, a Dice-like ratio), so no split can be exact"
    )
    remedy = "compute the loss over the whole batch (gradient caching), or accept that micro-batches are another loss"
    return Cause(told, remedy)


def _other_weights(e: Evidence) -> Cause | None:
    if not (e.yours and e.yours.weights and e.union and e.union.weights) or e.yours.outside > e.near:
        return None
    told = f"wrong weights: the micro-batches count {_listed(e.yours.weights)} instead of {_listed(e.union.weights)}"
    return Cause(told, f"look for clipping or a division by the loss inside the loop; {TALLY}")


def _other_gradient(e: Evidence) -> Cause | None:
    told = f"another gradient: cosine {e.found.cosine:.4f}"
    if e.yours is not None:
        told += f", {e.yours.outside:.2g} of it is in no micro-batch's gradient"
    remedy = "does the loop use the loss, the model and the modes (dropout, autocast) that `loss_fn` uses?"
    if e.window.ranks > 1:
        remedy = f"do {e.window.ranks} ranks with different numbers of terms count alike? {TALLY}; or: {remedy}"
    return Cause(told, remedy)


def _listed(weights: tuple[float, ...]) -> str:
    shown = [f"{weight:.3f}" for weight in weights[:8]]
    return ", ".join(shown if len(weights) <= 8 else [*shown[:7], "..."])


DIRECTIONS: Final[tuple[Rule, ...]] = (_lost, _mean_of_means, _batch_coupled, _other_weights, _other_gradient)
