"""Accelerate: exact gradients inside `accelerator.accumulate`, and a check of what it accumulates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from truestep.core import SumCount
from truestep.integrations._restored import restored
from truestep.loss import Tally
from truestep.loss.accumulation._accumulation import AccumulationCheck, check_accumulation

__all__ = ["backward", "check", "finish"]


def backward(accelerator: Any, tally: Tally, losses: Tensor, **keywords: Any) -> None:
    r"""`accelerator.backward` of a tally's total, with Accelerate's division by K taken back.

    `accelerator.backward` divides by K = `gradient_accumulation_steps`, also in the short window at a dataloader's
    end; here the gradients stay sums, and `finish` divides them once.

    Args:
        accelerator: With `gradient_accumulation_steps`, or without.
        tally: Its `total` gets the losses.
        losses: Of one micro-batch, unreduced; or their mean, with its `count`.
        keywords: `mask`, `weight`, `count`, as `Tally.total` takes them.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> accelerator, tally = Accelerator(cpu=True, gradient_accumulation_steps=2), Tally()
        >>> model = accelerator.prepare(torch.nn.Linear(1, 1, bias=False))
        >>> for x in torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]]):  # two micro-batches of two items
        ...     with accelerator.accumulate(model):
        ...         backward(accelerator, tally, model(x).squeeze(1))
        ...         window = finish(accelerator, tally, model.parameters())
        ...         if window is not None:  # clip, step and log here
        ...             print(model.weight.grad.item(), int(window.weight))
        4.0 4
    """
    _refuse(accelerator)
    accelerator.backward(tally.total(losses, **keywords) * accelerator.gradient_accumulation_steps)


def finish(accelerator: Any, tally: Tally, parameters: Iterable[Tensor]) -> SumCount | None:
    """`tally.finish` at the end of a window, None within it: after `backward`, before clipping and the step.

    DDP's average over ranks is part of the tally (`reduced="mean"`, its default). With fp16, gradients stay scaled,
    which a factor commutes with; only scale="ngd" needs them unscaled: they are, so clip then with
    `torch.nn.utils.clip_grad_norm_`, since `accelerator.clip_grad_norm_` would unscale again.

    Args:
        accelerator: The one that `backward` was called with.
        tally: Likewise.
        parameters: `model.parameters()`.

    Returns:
        The window's sums over all ranks, whose mean is the loss to log.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> accelerator, tally, weight = Accelerator(cpu=True), Tally(), torch.nn.Parameter(torch.ones(1))
        >>> backward(accelerator, tally, weight * torch.tensor([1.0, 2.0, 6.0]))
        >>> finish(accelerator, tally, [weight]).mean, weight.grad
        (tensor(3., dtype=torch.float64), tensor([3.]))
    """
    if not accelerator.sync_gradients:
        return None
    if tally.scale == "ngd":
        accelerator.unscale_gradients()
    return tally.finish(parameters)


def check(
    accelerator: Any,
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Any],
    micro_batches: Iterable[Any],
    step: Callable[[Any, Any], object] | None = None,
) -> AccumulationCheck:
    """What Accelerate accumulates over a window and over half of it, against the union batch.

    The loop is `with accelerator.accumulate(model): step(model, batch)`, the last batch being a dataloader's last, as
    in `truestep.loss.check_accumulation`, which makes the comparison. Everything is put back.

    Args:
        accelerator: The run's.
        model: As prepared by it.
        loss_fn: `loss_fn(model, batch)`: a scalar mean, or `(losses, weights)`.
        micro_batches: One window: `gradient_accumulation_steps` batches.
        step: What the run does with one batch, up to the optimizer's step; by default
            `accelerator.backward(loss_fn(model, batch))`.

    Raises:
        ValueError: DeepSpeed or Megatron-LM, which scale losses themselves; or several processes.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
        >>> model, batches = torch.nn.Linear(3, 1), torch.randn(4, 8, 3)
        >>> found = check(accelerator, model, lambda model, x: model(x).square().mean(), batches)
        >>> print(f"{found.ratio:.3f} {found.short.ratio:.3f} {found.cause.partition(':')[0]}")
        1.000 0.500 short window
    """
    _refuse(accelerator)
    if accelerator.num_processes > 1:
        msg = f"`accelerator` must have one process, found {accelerator.num_processes}: check the loop on one of them"
        raise ValueError(msg)

    def naive(model: Any, batch: Any) -> None:
        found = loss_fn(model, batch)
        loss = found if isinstance(found, Tensor) else (found[0] * found[1]).sum() / found[1].sum()
        accelerator.backward(loss)

    def window(model: Any, batches: Sequence[Any]) -> None:
        loader = _Loader()
        accelerator.step = 0
        accelerator.gradient_state._add_dataloader(loader)
        for i, batch in enumerate(batches):
            loader.end_of_dataloader = i == len(batches) - 1
            with accelerator.accumulate(model):
                (step or naive)(model, batch)
        _unscale(accelerator, model)

    with restored(accelerator, accelerator.gradient_state):
        return check_accumulation(model, loss_fn, micro_batches, window)


class _Loader:
    """As much of a prepared dataloader as `accumulate` asks: whether this batch is its last."""

    end_of_dataloader = False
    remainder = -1


def _unscale(accelerator: Any, model: nn.Module) -> None:
    """Take the loss scaler's factor out of the gradients."""
    if accelerator.scaler is not None:
        scale = accelerator.scaler.get_scale()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(scale)


def _refuse(accelerator: Any) -> None:
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    if kind in ("DEEPSPEED", "MEGATRON_LM"):
        msg = f"`accelerator` must leave the loss as it is; {kind} scales it itself"
        raise ValueError(msg)
