"""A training problem that optimizers are compared on: model, batches, loss, and when it counts as solved."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from truestep.core._mean_loss import mean_loss


@dataclass(frozen=True, slots=True)
class Problem:
    """What is trained, on what, and how far. The weights and the order of the data have a seed each.

    A sweep sends problems to other processes: give functions that can be imported, or a `functools.partial` of one,
    never a lambda. Those of `truestep.compare.problems` are all of that kind.

    Args:
        name: As the report and the command line write it, "digits-mlp".
        build: Gives the model with the weights of a seed, and leaves the global random numbers as they are.
        batches: Gives the batches of a seed, at least `max_steps` of them; equal seeds, equal batches, bit by bit.
        loss_fn: `loss_fn(model, batch)`, a scalar mean or (losses, weights).
        probe: Gives one fixed batch that losses are compared on.
        target: Solved is a model whose mean loss on the probe is at most this; in the loss's unit.
        max_steps: Where a run ends, solved or not.
        held_out: Gives a batch that is never trained on; None where all data are drawn afresh.

    Raises:
        ValueError: If `max_steps` is not positive, or `target` is nan.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from truestep.compare.problems import minibatches, seeded, squared_loss
        >>> x = torch.linspace(-1, 1, 64)[:, None]
        >>> def build(seed):
        ...     with seeded(seed):
        ...         return nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
        >>> def batches(seed):
        ...     return minibatches((x, x.sin()), 16, seed)
        >>> def probe():
        ...     return x, x.sin()
        >>> problem = Problem("sine", build, batches, squared_loss, probe, target=1e-3, max_steps=200)
        >>> model = problem.build(0)
        >>> problem.probe_loss(model) == squared_loss(model, problem.probe()).item()
        True
    """

    name: str
    build: Callable[[int], nn.Module]
    batches: Callable[[int], Iterator[Any]]
    loss_fn: Callable[[Any, Any], Any]
    probe: Callable[[], Any]
    target: float | int
    max_steps: int
    held_out: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1, found {self.max_steps}")
        if self.target != self.target:
            raise ValueError("`target` must be a loss, found nan: no model would ever be solved")

    def probe_loss(self, model: nn.Module) -> float:
        """Mean loss on the probe, the model in evaluation mode; its mode is put back."""
        with evaluating(model), torch.no_grad():
            loss, _ = mean_loss(self.loss_fn(model, self.probe()))
        return float(loss)

    def outputs(self, model: nn.Module) -> Tensor:
        """What the model, in evaluation mode, gives for the probe's inputs, the first entry of the batch.

        `functools.partial(problem.outputs, model)` is a `probe` for steps of equal length in function space.
        """
        with evaluating(model):
            return model(self.probe()[0])


@contextmanager
def evaluating(model: nn.Module) -> Generator[None, None, None]:
    """Evaluation mode within; afterwards every module has the mode that it had.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Dropout())
        >>> with evaluating(model):
        ...     model[0].training
        False
        >>> model[0].training
        True
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
