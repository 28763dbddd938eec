"""One training step of a stack beside the same step of its replicas, before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from truestep.compare.problems import Problem
from truestep.compare.training._batches import stacked_batches
from truestep.compare.training._loop import next_batch
from truestep.compare.training._probe import MeanLoss
from truestep.compare.training._stack import Stack
from truestep.compare.training._stackable import NotStackableError
from truestep.core._preserved import preserved

Found = dict[str, Tensor | None]


def rehearse(problem: Problem, stack: Stack, orders: Sequence[int]) -> None:
    """Compare loss, gradients and changed buffers of the first and the last replica; everything is left as it was.

    Raises:
        NotStackableError: If they differ, the model draws random numbers, or what it does cannot be stacked.

    Example:
        >>> from truestep.compare.problems import quadratic
        >>> rehearse(quadratic(), Stack(quadratic(), [0, 1]), [0, 1])
    """
    rows = sorted({0, len(stack) - 1})
    together = _of_stack(problem, stack, orders, rows)
    for row, found in zip(rows, together, strict=True):
        alone = _of_model(problem, stack, row, orders[row])
        largest = max((float(x.abs().max()) for x in alone.values() if x is not None and x.numel()), default=0.0)
        for name, expected in alone.items():
            if not _agree(expected, found[name], largest):
                raise NotStackableError(f"a stack of the model gives another {name} than the model alone")


def _of_stack(problem: Problem, stack: Stack, orders: Sequence[int], rows: Sequence[int]) -> list[Found]:
    before = {name: x.clone() for name, x in stack.buffers.items()}
    try:
        with preserved(stack.model), warnings.catch_warnings():
            warnings.filterwarnings("error", message="There is a performance drop")  # vmap would go row by row
            losses = stack.losses(next(stacked_batches(problem, orders)), shared=False)
            gradients = _gradients(losses.sum(), stack.params)
            found = {
                "loss": losses.detach(),
                **gradients,
                **{_of(name): x.clone() for name, x in stack.buffers.items()},
            }
    except NotStackableError:
        raise
    except Exception as error:  # whatever vmap does not know
        raise NotStackableError(f"the model cannot be stacked: {str(error).strip().splitlines()[0]}") from error
    finally:
        for name, x in stack.buffers.items():
            x.copy_(before[name])
    return [{name: None if x is None else x[row] for name, x in found.items()} for row in rows]


def _of_model(problem: Problem, stack: Stack, row: int, order: int) -> Found:
    model = stack.models[row]
    with preserved(model):
        drawn = _random_state()
        loss = MeanLoss(model, problem.loss_fn)(next_batch(iter(problem.batches(order)), 0))
        gradients = _gradients(loss, dict(model.named_parameters()))
        if any(not torch.equal(x, y) for x, y in zip(drawn, _random_state(), strict=True)):
            raise NotStackableError("the model draws random numbers in training")
        buffers = {_of(name): x.clone() for name, x in model.named_buffers()}
    return {"loss": loss.detach(), **gradients, **buffers}


def _of(buffer: str) -> str:
    return f"buffer {buffer}"


def _gradients(loss: Tensor, params: dict[str, Tensor]) -> Found:
    wanted = {name: p for name, p in params.items() if p.requires_grad}
    found = torch.autograd.grad(loss, [*wanted.values()], allow_unused=True)
    return {f"gradient of {name}": x for name, x in zip(wanted, found, strict=True)}


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]


def _agree(expected: Any, found: Any, largest: float) -> bool:
    """Whether they differ by rounding alone."""
    if expected is None or found is None:
        return expected is found
    if expected.shape != found.shape:
        return False
    if not expected.is_floating_point() and not expected.is_complex():
        return torch.equal(expected, found)
    eps = torch.finfo(expected.dtype).eps
    return torch.allclose(found, expected, rtol=eps**0.5, atol=1e3 * eps * largest, equal_nan=True)
