"""Whether a loop over micro-batches gives the gradient of the batch that they make up, and why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from truestep.loss.accumulation._accumulation_check import AccumulationCheck
from truestep.loss.accumulation._averaging import averaging_groups
from truestep.loss.accumulation._cause import Cause, cause, with_batch_norm
from truestep.loss.accumulation._comparison import Comparison, Gradients, compare, fit
from truestep.loss.accumulation._evidence import Evidence, Window
from truestep.loss.accumulation._problem import Problem
from truestep.loss.accumulation._window import has_training_batch_norm, preserved, quiet

# Relative error up to which two gradients are the same, by the narrowest float that made them.
TOLERANCE: Final = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
NARROWER: Final = 0.1
OFF_CPU: Final = (50.0, 1e-3)  # TF32, atomics: other devices round this much more, but not beyond 1e-3
FLOORS: Final = 3.0  # how many times the loop's own variation is no difference

Parts = Sequence[Gradients] | Callable[[], Sequence[Gradients]]


def check_accumulation(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Any],
    micro_batches: Iterable[Any],
    backward: Callable[[Any, Any], object] | None = None,
    collate: Callable[[Any], Any] | None = None,
) -> AccumulationCheck:
    r"""Compare the gradient that a loop accumulates with that of the union batch, and name the cause of a difference.

    The reference is :math:`\sum_i w_i \nabla\ell_i / \sum_i w_i` where `loss_fn` gives (losses, weights), else the
    gradient of the scalar that it gives for the union of the micro-batches. The loop runs twice on all micro-batches
    and twice on the first half of them: a window at the end of an epoch is short.

    All modules but BatchNorm are held in eval mode meanwhile, so that dropout raises no alarm. Gradients, buffers,
    modes and random state are put back, also after an exception, and the loop gets copies of the batches; memory for
    a copy of the parameters, three to five of the gradients, one of the batches and one union batch is needed. Objects
    that the loop holds (a `Tally`, a `NoiseScale`, a GradScaler) are not put back: build them inside `backward`, or
    check with copies.

    Args:
        model: Any module. Under DistributedDataParallel or `fully_shard` every rank calls this with as many
            micro-batches, and (losses, weights) make the reference that of all ranks; causes are named less finely.
        loss_fn: `loss_fn(model, batch)` gives a scalar mean over the batch, or unreduced losses and their weights (an
            ignored target has weight 0; a mean and its count will do).
        micro_batches: The batches of one window, in the loop's order.
        backward: `backward(model, micro_batches)` is the loop to check, up to and without the optimizer's step: it
            leaves its gradient in `.grad`. It must take any number of micro-batches. None takes the usual recipe,
            `(loss / len(micro_batches)).backward()` of each mean loss, and so says whether it is right here.
        collate: `collate(micro_batches)` makes the union batch. None concatenates tensors, nested in any way.

    Raises:
        ValueError: No micro-batches, nothing to train, a loss of another form, batches that cannot be joined, or a
            `backward` that changes the parameters.

    Example:
        >>> def loss_fn(model, batch):
        ...     return (model(batch) ** 2).mean()
        >>> def backward(model, micro_batches):
        ...     for batch in micro_batches:
        ...         loss_fn(model, batch).backward()
        >>> check = check_accumulation(torch.nn.Linear(3, 1), loss_fn, torch.randn(4, 8, 3), backward)
        >>> print(check)
        gradient accumulation: WRONG
          window        4 micro-batches  ratio 4.0000  cosine 1.000000  relative error 3
          half of it    2 micro-batches  ratio 2.0000  cosine 1.000000  relative error 1
          the loop varies by 0 between runs; same is up to 2e-05
        cause: missing division: 4 micro-batches are added, not averaged; the gradient is 4.000 times that of ...
        remedy: divide each loss by 4 if they are of equal size; in any case, sum the losses, count, and divide ...
    """
    with preserved(model):
        problem = Problem(model, loss_fn, tuple(micro_batches), backward, collate, averaging_groups(model))
        half = problem.half()
        short, left = (None, None) if half is None else _checked(half)
        return _checked(problem, short, left)[0]


def judge(
    accumulated: Gradients,
    reference: Gradients,
    window: Window,
    *,
    again: Gradients | None = None,
    parts: Parts = (),
    short: AccumulationCheck | None = None,
    half: Gradients | None = None,
    frozen: AccumulationCheck | None = None,
    precision: torch.dtype | None = None,
) -> AccumulationCheck:
    """The check of gradients that are already there, by parameter name.

    Args:
        accumulated: What the loop left.
        reference: The union batch's.
        window: What is known about the window.
        again: What the loop left in a second run.
        parts: Gradient of each micro-batch's own mean loss, or a function that gives them, called if something is
            wrong: without them a wrong direction gets no name.
        short: The check of half of the window; left out if nothing can be told from that half.
        half: What the loop left on half of the window.
        frozen: The check with BatchNorm's statistics held fixed, where BatchNorm takes part.
        precision: Narrowest float that the forward pass used, where it is narrower than the gradients (autocast).

    Example:
        >>> judge({"w": torch.tensor([1.5])}, {"w": torch.tensor([2.0])}, Window(3)).cause
        'short window: the loop divides by 4, but the window has 3 micro-batches: 0.750 of the gradient'
    """
    found = compare(accumulated, reference)
    floor = 0.0 if again is None else compare(again, accumulated).relative_error
    tolerance = max(_tolerance([*accumulated.values(), *reference.values()], precision), FLOORS * floor)
    short = short if short is not None and _tells(short.evidence, found) else None
    moved = None if half is None else compare(half, accumulated).relative_error
    base = Evidence(window, found, tolerance, floor, None if short is None else short.evidence, moved=moved)
    evidence = base
    if not base.same and found.relative_error < float("inf"):
        given = parts() if callable(parts) else parts
        evidence = _explained(base, accumulated, reference, given) if given else base
    told = cause(evidence)
    if frozen is not None and not evidence.same:
        told = with_batch_norm(found.relative_error, Cause(frozen.cause, frozen.remedy), same=frozen.ok)
    return AccumulationCheck(
        found.ratio, found.cosine, found.relative_error, told.sentence, floor, short, told.remedy, evidence=evidence
    )


def _checked(
    problem: Problem, short: AccumulationCheck | None = None, half: Gradients | None = None, *, frozen: bool = False
) -> tuple[AccumulationCheck, Gradients]:
    """The check of one window and what the loop left; again with BatchNorm frozen if that is wrong and one trains."""
    with quiet(problem.model, frozen=frozen):
        reference, window, precision = problem.reference()
        once, again = (problem.loop(), problem.loop()) if window.weight != 0 else ({}, {})  # no target: it may raise
        judged = partial(judge, once, reference, window, again=again, short=short, half=half, precision=precision)
        check = judged(parts=problem.parts)
        trains = has_training_batch_norm(problem.model)
    if check.evidence.same or not trains:
        return check, once
    return judged(frozen=_checked(problem, frozen=True)[0]), once


def _tells(half: Evidence, found: Comparison) -> bool:
    """Whether half of a window can be judged: not if it has no kept target, be it by weights or by a mean of none."""
    return half.judged and (half.found.reference_norm < float("inf") or not found.reference_norm < float("inf"))


def _explained(e: Evidence, accumulated: Gradients, reference: Gradients, parts: Sequence[Gradients]) -> Evidence:
    """The evidence with both gradients as combinations of the micro-batches', whose rounding may have grown."""
    yours, union = fit(accumulated, parts), fit(reference, parts)
    return replace(e, tolerance=e.tolerance * max(1.0, union.cancelled), yours=yours, union=union)


def _tolerance(gradients: list[Tensor], precision: torch.dtype | None) -> float:
    made = {x.dtype.to_real() for x in gradients} | ({precision} if precision else set[torch.dtype]())
    widest = max((TOLERANCE.get(dtype, NARROWER) for dtype in made), default=0.0)
    if all(x.device.type == "cpu" for x in gradients):
        return widest
    times, most = OFF_CPU
    return min(times * widest, max(widest, most))
