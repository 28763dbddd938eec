"""Steps whose gradients are bad are not taken, and nothing of the run notices them."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from truestep.core import warn
from truestep.core._hooks import capturing, check_hooks, inside_step, not_compiled, skipped_by_compiler
from truestep.loss.skipping._fused import FoundInf, asks_found_inf, has_state
from truestep.loss.skipping._skip_count import SkipCount
from truestep.loss.skipping._undo import Undo
from truestep.loss.skipping._verdict import groups_of, joined, verdict

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def guard(optimizer: Optimizer, *, group: dist.ProcessGroup | None = None, patience: int = 10) -> Guard:
    """Skip every step of `optimizer` whose gradients are not finite anywhere, or exactly zero everywhere.

    A gradient that is nan spoils the weights for good; one that is zero still moves them under momentum, weight decay
    and Adam. A skipped step leaves weights and optimizer state as they were, bit for bit, and the next one is what it
    would have been without it. Gradients may be of any reduction, and still scaled by a gradient scaler.

    It attaches by step hooks: the optimizer stays the object that schedulers, scalers and trainers know. Torch's fused
    optimizers are told on the device (`found_inf`), without waiting for it; of any other optimizer one number is read
    on the host at each step, and its parameters have no gradient while a bad step runs. A fused one that has no state
    yet is read too: told on the device, it would leave state behind (SGD: momentum of uninitialised memory).

    Args:
        optimizer: Any `torch.optim.Optimizer` with step hooks. A rule of one's own must pass over parameters without
            a gradient, as torch's do.
        group: Ranks that must decide together, where each holds other gradients. DDP needs none (its gradients are
            equal); ranks that share a DTensor (FSDP2, tensor parallel) are found.
        patience: Steps skipped in a row after which a warning is given, once.

    Raises:
        ValueError: If the optimizer has no hooks (the message names the inner one to pass), or `patience` is not
            positive.

    Note:
        Without a fused optimizer, GradScaler does not call the optimizer at all where it found an infinity: nothing is
        counted here then. LBFGS evaluates several times a step: the first gradient is judged as above, and a step that
        ends in weights that are not finite is undone.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5, weight_decay=0.1)
        >>> with guard(optimizer) as skips:
        ...     for gradient in ([1.0, 1.0], [torch.nan, 1.0], [0.0, 0.0]):
        ...         weight.grad = torch.tensor(gradient)
        ...         optimizer.step()
        >>> weight.tolist(), skips.reasons, skips.last
        ([0.44999998807907104, 0.44999998807907104], {'not finite': 1, 'zero': 1}, 'zero')
    """
    return Guard(optimizer, group=group, patience=patience)


class Guard:
    """What `guard` returns: a context manager that counts the skipped steps.

    Example:
        >>> optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
        >>> with guard(optimizer) as skips:
        ...     optimizer.step()
        >>> skips.skipped, skips.reasons, skips.last
        (0, {'not finite': 0, 'zero': 0}, None)
    """

    def __init__(self, optimizer: Optimizer, *, group: dist.ProcessGroup | None = None, patience: int = 10) -> None:
        check_hooks(optimizer)
        if patience < 1:
            msg = f"`patience` must be a positive number of steps, found {patience}"
            raise ValueError(msg)
        self._optimizer, self._group, self._patience = optimizer, group, patience
        self._count, self._warned = SkipCount(patience), False
        self._depth = 0
        self._taken: list[tuple[Tensor, Tensor]] = []  # gradients that the step at hand must not see
        self._found = FoundInf(optimizer)
        self._undo: Undo | None = None
        self._before, self._first, self._last = self._hooked()

    @property
    def skipped(self) -> int:
        """Steps skipped so far; reading it may wait for the device."""
        return sum(self.reasons.values())

    @property
    def reasons(self) -> dict[str, int]:
        """Skipped steps by reason, "not finite" and "zero"; reading it may wait for the device."""
        return self._count.reasons

    @property
    def last(self) -> str | None:
        """Why the latest step was skipped, None where it was taken; reading it may wait for the device."""
        return self._count.last

    def state_dict(self) -> dict[str, Any]:
        """The counts, as plain numbers."""
        return self._count.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from `state`."""
        self._count.load_state_dict(state)

    def close(self) -> None:
        """Take the hooks off; the counts stay."""
        for handle in (self._before, self._first, self._last):
            handle.remove()
        self._put_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _hooked(self) -> tuple[RemovableHandle, RemovableHandle, RemovableHandle]:
        """Hooks before the step, right after it, and after everybody else; torch.compile leaves all as they are."""
        begin, end, leave = map(not_compiled, (self._begin, self._end, self._leave))

        def before(optimizer: Optimizer, args: Any, kwargs: Any) -> Arguments | None:
            return begin(optimizer, args, kwargs)

        def first(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            end()

        def last(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            leave()

        pre, post = self._optimizer.register_step_pre_hook, self._optimizer.register_step_post_hook
        return pre(skipped_by_compiler(before)), post(skipped_by_compiler(first)), post(skipped_by_compiler(last))

    def _begin(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Before the step: judge the gradients, or have them judged when the closure has made them."""
        if self._depth and inside_step(optimizer):
            self._depth += 1  # a subclass's step calls its base's, which carries the hooks too
            return None
        self._depth = 1
        self._put_back()  # a step before may have ended in an exception
        self._undo = Undo(optimizer) if isinstance(optimizer, LBFGS) else None
        hooks: Any = optimizer._optimizer_step_post_hooks  # pyright: ignore[reportPrivateUsage]
        hooks.move_to_end(self._first.id, last=False)  # others, `watch` too, see the gradients, and see `found_inf`
        hooks.move_to_end(self._last.id)
        changed = _with_closure(args, kwargs, self._judging)
        if changed is None:
            self._judge()
        return changed

    def _judging(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, its first evaluation judged."""
        judge: Callable[[], None] | None = not_compiled(self._judge)

        def evaluate() -> Any:
            nonlocal judge
            loss = closure()
            if judge is not None:
                judge()
                judge = None
            return loss

        return evaluate

    @torch.no_grad()
    def _judge(self) -> None:
        """Keep the step that follows from moving anything if its gradients are bad."""
        owned = [(group, p) for group in self._optimizer.param_groups for p in group["params"]]
        used = [(group, p) for group, p in owned if p.grad is not None]
        groups = groups_of((p for _, p in owned), self._group)
        lazily = asks_found_inf(self._optimizer) and all(has_state(self._optimizer, group, p) for group, p in used)
        if not (used or groups) or (capturing(self._optimizer) and not lazily):
            return
        flags = verdict([p.grad for _, p in used], groups)
        if self._found.present is not None:
            flags = joined(flags, self._found.present)
        if lazily:
            self._count.add_lazily(flags)
            self._found.tell(flags.sum(dtype=torch.float32))
        else:
            self._count.add(known := flags.tolist())
            if any(known):
                self._taken = [(p, p.grad) for _, p in used]
                for p, _ in self._taken:
                    p.grad = None
        self._warn_if_stuck()

    def _end(self) -> None:
        """After the step, before anybody else: the gradients as they were, and `found_inf` for who looks at it."""
        if self._depth > 1:
            return
        skipped, undo = bool(self._taken), self._undo
        if undo is not None and not skipped and undo.is_spoiled():
            skipped = True
            self._count.add([1, 0])
        self._give_back()
        if not skipped:
            return
        if undo is not None:
            undo.restore()
        self._found.tell(torch.ones(()))

    def _leave(self) -> None:
        """After the step and everybody else."""
        self._depth -= 1
        if self._depth > 0:
            return
        self._put_back()
        hooks: Any = self._optimizer._optimizer_step_pre_hooks  # pyright: ignore[reportPrivateUsage]
        if self._before.id in hooks:
            hooks.move_to_end(self._before.id)  # others see the gradients before they are taken away

    def _give_back(self) -> None:
        """The same gradients, unless there are new ones."""
        taken, self._taken = self._taken, []
        for p, grad in taken:
            if p.grad is None:
                p.grad = grad

    def _put_back(self) -> None:
        """Leave the optimizer as it was before the step."""
        self._found.put_back()
        if all(p.grad is None for p, _ in self._taken):  # else others have been made since
            self._give_back()
        self._taken, self._undo = [], None

    def _warn_if_stuck(self) -> None:
        if self._warned or not self._count.is_stuck:
            return
        self._warned = True
        name = type(self._optimizer).__name__
        message = (
            f"guard has skipped the last {self._patience} steps of {name} or more: the weights do not move. "
            "Look at `.reasons` and at the loss before its backward"
        )
        warn(message)


def _with_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], wrapped: Callable[[Callable[[], Any]], Callable[[], Any]]
) -> Arguments | None:
    """The step's arguments with its closure wrapped; None where there is none."""
    if callable(kwargs.get("closure")):
        return args, {**kwargs, "closure": wrapped(kwargs["closure"])}
    if len(args) > 1 and callable(args[1]):  # args[0] is the optimizer
        return (args[0], wrapped(args[1]), *args[2:]), kwargs
    return None
