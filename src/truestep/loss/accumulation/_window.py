"""Running a user's window of micro-batches as if it had never run.

`preserved` puts everything back, `quiet` holds the modules' modes while gradients are compared, `taken` takes the
gradients away by name. An integration that has its own way of running a window needs these three and `judge`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from truestep.core import _preserved
from truestep.loss.accumulation._comparison import Gradients

WHOLE: Final = 1 << 27  # elements of all micro-batches' gradients that are kept to find a cause: 512 MB of float32


@contextmanager
def preserved(model: nn.Module) -> Generator[None, None, None]:
    """Put back gradients, buffers, modes and random state, also after an exception.

    Gradients come back as the same tensors with the same values, and None as None.

    Raises:
        ValueError: If the parameters were changed meanwhile (they are put back too).

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout())
        >>> with preserved(model):
        ...     _ = model.eval().train()(torch.randn(4, 2)).sum().backward()
        >>> model[0].weight.grad, int(model[0].num_batches_tracked)
        (None, 0)
    """
    with _preserved.preserved(model) as told:
        yield
    if told.changed:
        msg = "`backward` changed the parameters: it must end before `optimizer.step()`; they were put back"
        raise ValueError(msg)


@contextmanager
def quiet(model: nn.Module, *, frozen: bool = False) -> Generator[None, None, None]:
    """Hold all modules but BatchNorm in eval mode, whatever the loop calls; `frozen`: BatchNorm too.

    Recurrent layers keep their mode without dropout: cuDNN refuses their backward in eval mode.
    """
    modes = {module: module.training for module in model.modules()}
    recurrent = {module: module.dropout for module in modes if isinstance(module, nn.RNNBase)}
    for module, training in modes.items():
        kept = module in recurrent or (is_batch_norm(module) and not frozen)
        module.training = training and kept
        vars(module)["train"] = _held_mode(module)
    for module in recurrent:
        module.dropout = 0.0
    try:
        yield
    finally:
        for module, training in modes.items():
            vars(module).pop("train", None)
            module.training = training
        for module, dropout in recurrent.items():
            module.dropout = dropout


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module normalises by the statistics of its batch."""
    return isinstance(module, _BatchNorm) or "batchnorm" in type(module).__name__.lower()


def has_training_batch_norm(model: nn.Module) -> bool:
    """Whether a BatchNorm of the model would use its batch's statistics now."""
    return any(is_batch_norm(module) and module.training for module in model.modules())


def taken(model: nn.Module) -> Gradients:
    """Take every `.grad` away, by parameter name; a parameter without one is left out.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> sorted(taken(model)), model.bias.grad
        (['bias', 'weight'], None)
    """
    gradients: Gradients = {}
    for name, p in model.named_parameters():
        if p.grad is not None:
            gradients[name] = p.grad.detach().clone()  # it may be a view of a bucket that the next backward fills
            p.grad = None
    return gradients


def thinned(gradients: Gradients, copies: int) -> Gradients:
    """Every n-th element of each gradient, so that `copies` of them fit into `WHOLE` elements; all where they do."""
    every = 1 + copies * sum(x.numel() for x in gradients.values()) // WHOLE
    if every == 1 or any(type(x) not in (Tensor, nn.Parameter) for x in gradients.values()):
        return gradients
    return {name: x.reshape(-1)[::every].clone() for name, x in gradients.items()}


def _held_mode(module: nn.Module) -> Callable[..., nn.Module]:
    def train(mode: bool = True) -> nn.Module:  # noqa: ARG001
        return module

    return train
