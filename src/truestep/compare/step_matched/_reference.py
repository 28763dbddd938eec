"""Another optimizer's steps from the same weights, for their lengths."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from truestep.compare.step_matched._decay import DecayOutside
from truestep.core._kept import Buffers


class Reference:
    """An optimizer that is given another one's gradients at its weights, and whose moves are taken back bit by bit.

    Args:
        reference: The optimizer; its state is its own, and goes on as if it alone had these gradients.
        optimizer: The one whose weights and gradients they are.
        decay_out: Whether it steps without its weight decay.

    Raises:
        ValueError: If the two do not hold the same weights, are one, or the reference needs a closure (LBFGS).

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> adam, sgd = torch.optim.Adam([weight], lr=1.0), torch.optim.SGD([weight], lr=0.5)
        >>> reference = Reference(sgd, adam, decay_out=False)
        >>> weight.grad = torch.ones(1)
        >>> reference.begin([weight])
        >>> reference.ready()
        >>> with torch.no_grad(), reference.stepped([weight.detach().clone()], None):
        ...     weight.tolist()
        [0.5]
        >>> weight.tolist()
        [1.0]
    """

    def __init__(self, reference: Optimizer, optimizer: Optimizer, *, decay_out: bool) -> None:
        if reference is optimizer or isinstance(reference, LBFGS):
            what = "the optimizer itself" if reference is optimizer else "LBFGS, which evaluates the loss as it steps"
            msg = f"`length` must be another optimizer whose step needs no closure, found {what}"
            raise ValueError(msg)
        self.optimizer = reference
        self._decay = DecayOutside(reference) if decay_out else None
        self._params: Sequence[Tensor] = ()
        self._gradients, self._weights = Buffers(), Buffers()
        self._copies: list[Tensor | None] | None = None
        self._check(_weights(optimizer))

    def begin(self, params: Sequence[Tensor]) -> None:
        """Before a step of the other's that can move `params`."""
        self._check({id(p) for p in params}, whole=False)
        self._params, self._copies = params, None

    @torch.no_grad()
    def ready(self) -> None:
        """Keep the gradients: they stand, and the step or its closure may overwrite them."""
        self._copies = self._gradients.fill(_numbers(self._params), [p.grad for p in self._params])

    @contextmanager
    def stepped(self, before: Sequence[Tensor | None], scale: Tensor | None) -> Generator[None, None, None]:
        """The reference's step: within, the weights are where it takes them; then weights and gradients as they were.

        Args:
            before: The weights that it starts from.
            scale: What a gradient scaler has the kept gradients multiplied with; None: nothing.
        """
        now = self._weights.fill(_numbers(self._params), [p.detach() for p in self._params])
        theirs = [p.grad for p in self._params]
        _set(self._params, before)
        copies = self._copies if self._copies is not None else theirs
        for p, grad in zip(self._params, copies, strict=True):
            if grad is not None and scale is not None:
                grad.mul_(scale.double().reciprocal().float().to(grad.device))
            p.grad = grad
        if self._decay is not None:
            self._decay.take()
        try:
            self.optimizer.step()
            yield
        finally:
            if self._decay is not None:
                self._decay.put_back()
            _set(self._params, now)
            for p, grad in zip(self._params, theirs, strict=True):
                p.grad = grad

    def _check(self, params: set[int], *, whole: bool = True) -> None:
        found = _weights(self.optimizer)
        if params - found or (whole and found - params):
            msg = (
                "`length` must be an optimizer on the same weights, found one that "
                + (f"lacks {len(params - found)} of them" if params - found else f"has {len(found - params)} more")
                + "; build both of the same parameters, and give both a group that is added later"
            )
            raise ValueError(msg)


def _weights(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _numbers(params: Sequence[Tensor]) -> list[str]:
    return [str(number) for number in range(len(params))]


def _set(params: Sequence[Tensor], values: Sequence[Tensor | None]) -> None:
    for p, x in zip(params, values, strict=True):
        if x is not None:
            p.detach().copy_(x)
