"""Calls before and after the whole of a step, whatever else hangs on the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from truestep.core._hooks import check_hooks, inside_step, not_compiled, skipped_by_compiler

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Call = Callable[[], None]
Quantity = Literal["lr", "norms", "gradient", "step"]

_KEEPS: Final = "truestep_keeps"
_VAIN: Final[dict[Quantity, str]] = {  # beside a control of the step: what another one sets, and why not both
    "lr": "an lr has no effect on a step whose length is set",
    "norms": "norms that are set change a step whose length is set",
}


@dataclass(frozen=True, slots=True)
class Keeps:
    """What a control has the say in: these quantities of these weights.

    Args:
        control: Its name.
        quantities: Of the lr of the weights' groups, the weights' norms, the gradient that the step reads, and the
            length of the "step", which leaves nothing to say to who sets lr or norms.
        weights: By their identity, which outlives a loaded state.
    """

    control: str
    quantities: frozenset[Quantity]
    weights: frozenset[int]


def keeps(control: str, quantities: Iterable[Quantity], weights: Iterable[Tensor]) -> Keeps:
    """What a control is about to keep."""
    return Keeps(control, frozenset(quantities), frozenset(map(id, weights)))


def kept_by(optimizer: Optimizer, quantity: Quantity, weights: Iterable[Tensor]) -> list[str]:
    """Names of the controls on `optimizer` that keep this quantity of one of `weights`, or contradict who sets it."""
    asked = Keeps("", frozenset([quantity]), frozenset(map(id, weights)))
    return [held.control for held in _kept(optimizer) if _against(held, asked)]


def check_beside(optimizer: Optimizer, new: Keeps) -> None:
    """Raise a ValueError where a control on `optimizer` keeps already what `new` is about to, or contradicts it."""
    for held in _kept(optimizer):
        if why := _against(held, new):
            msg = (
                f"`optimizer` must have no {held.control} on weights that a new {new.control} is given: {why}; close "
                "the one there (`.close()`), or give them different weights"
            )
            raise ValueError(msg)


def _against(held: Keeps, new: Keeps) -> str:
    """Why two controls cannot stand on the same weights; "" where they can."""
    if not held.weights & new.weights:
        return ""
    if both := sorted(held.quantities & new.quantities):
        return f"both set their {' and '.join(both)}"
    for one, other in ((held, new), (new, held)):
        if "step" in one.quantities and (vain := [why for name, why in _VAIN.items() if name in other.quantities]):
            return " and ".join(vain)
    return ""


def _kept(optimizer: Optimizer) -> list[Keeps]:
    hooks: Any = optimizer._optimizer_step_pre_hooks  # pyright: ignore[reportPrivateUsage]
    return [held for hook in hooks.values() if (held := getattr(hook, _KEEPS, None)) is not None]


def _nothing() -> None:
    """What a control does that has nothing to do there."""


class Around:
    """Step hooks of a control; a subclass's step that calls its base's is one step, and torch.compile leaves them be.

    Args:
        optimizer: The user's optimizer; it stays the object that schedulers, scalers and trainers know.
        before: Called ahead of the step.
        ready: Called when the gradients are there: after `before`, or after a closure's first evaluation.
        again: Called before each further evaluation of a closure, and `ready` behind it; None: neither is.
        first: Called behind the step, ahead of the hooks of everybody who came before: they see what it leaves.
        last: Called behind the step and everybody else.
        keeps: What the control has the say in; `check_beside` first, ahead of anything that is changed. One that keeps
            the gradient comes before everybody else's hooks ahead of the step, so that they see what the step will.

    Raises:
        ValueError: If the optimizer takes no step hooks (the message names the inner one to pass).

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        >>> around = Around(optimizer, before=lambda: print("before"), last=lambda: print("last"))
        >>> optimizer.step()
        before
        last
        >>> around.close()
        >>> optimizer.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        before: Call = _nothing,
        ready: Call = _nothing,
        again: Call | None = None,
        first: Call = _nothing,
        last: Call = _nothing,
        keeps: Keeps | None = None,
    ) -> None:
        check_hooks(optimizer)
        self._optimizer, self._depth = optimizer, 0
        self._before, self._ready, self._again = before, ready, again
        self._handles = self._hooked(first, last, keeps)

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _hooked(self, first: Call, last: Call, keeps: Keeps | None) -> tuple[RemovableHandle, ...]:
        begin, first, last = map(not_compiled, (self._begin, first, last))

        def before(optimizer: Optimizer, args: Any, kwargs: Any) -> Arguments | None:
            return begin(optimizer, args, kwargs)

        def behind(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            if self._depth == 1:
                first()

        def behind_all(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            self._depth -= 1
            if self._depth == 0:
                last()

        before.__dict__[_KEEPS] = keeps
        pre, post = self._optimizer.register_step_pre_hook, self._optimizer.register_step_post_hook
        one, two, three = (pre(skipped_by_compiler(before)), *map(post, map(skipped_by_compiler, (behind, behind_all))))
        hooks: Any = self._optimizer._optimizer_step_post_hooks  # pyright: ignore[reportPrivateUsage]
        hooks.move_to_end(two.id, last=False)
        if keeps is not None and "gradient" in keeps.quantities:
            hooks = self._optimizer._optimizer_step_pre_hooks  # pyright: ignore[reportPrivateUsage]
            hooks.move_to_end(one.id, last=False)
        return one, two, three

    def _begin(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        if self._depth and inside_step(optimizer):
            self._depth += 1
            return None
        self._depth = 1  # also where a step before ended in an exception
        hooks: Any = optimizer._optimizer_step_post_hooks  # pyright: ignore[reportPrivateUsage]
        hooks.move_to_end(self._handles[-1].id)  # here: while torch goes through its hooks they cannot be moved
        self._before()
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._noticed(kwargs["closure"])}
        if len(args) > 1 and callable(args[1]):  # args[0] is the optimizer
            return (args[0], self._noticed(args[1]), *args[2:]), kwargs
        self._ready()
        return None

    def _noticed(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, calling `ready` after its first evaluation, and after the others where there is an `again`."""
        ready: Call | None = not_compiled(self._ready)
        again: Call | None = None if self._again is None else not_compiled(self._again)
        evaluated = False

        def evaluate() -> Any:
            nonlocal ready, evaluated
            if evaluated and again is not None:
                again()
            loss = closure()
            if ready is not None:
                ready()
            evaluated, ready = True, ready if again is not None else None
            return loss

        return evaluate
