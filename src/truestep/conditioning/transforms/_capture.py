"""What layers were used with, counted when the gradient that a use has made is added into `.grad`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from truestep.conditioning._layers import Layer
from truestep.conditioning.transforms._stepped import Stepped
from truestep.core import AbstractSum
from truestep.core._hooks import not_compiled


@dataclass(frozen=True, slots=True)
class Use:
    """One pass of a batch through a layer, as its backward sees it.

    Args:
        module: The layer; `rows_of`, `grouped_rows` and `delta_rows` take it apart.
        x: Its input, as it was given.
        delta: Gradient at its output, with the loss's reduction and a gradient scaler's scale still in it.
        observed: Whether the backward ran inside `Capture.observing`, so that `delta` belongs to another loss.
    """

    module: Layer
    x: Float[Tensor, "..."]
    delta: Float[Tensor, "..."]
    observed: bool

    @property
    def samples(self) -> int:
        """Size of the first dimension; 1 for a single sample without one."""
        return self.delta.shape[0] if self.delta.dim() > (3 if isinstance(self.module, nn.Conv2d) else 1) else 1

    @property
    def rows(self) -> int:
        """How many rows the layer's matrix was multiplied with: words of a sequence and places of an image count."""
        width = self.module.out_channels if isinstance(self.module, nn.Conv2d) else self.module.out_features
        return self.delta.numel() // max(width, 1)


@dataclass(frozen=True, slots=True)
class Window:
    """What the gradient that now stands in `.grad` was made of.

    Args:
        sums: Of all uses.
        samples: Samples of one backward (its largest use: a layer used twice sees them twice), over all backwards.
    """

    sums: AbstractSum
    samples: int

    def beside(self, other: Window) -> Window:
        """With another use of the same backward."""
        return Window(self.sums + other.sums, max(self.samples, other.samples))

    def after(self, other: Window) -> Window:
        """With an earlier backward."""
        return Window(other.sums + self.sums, other.samples + self.samples)


class Capture:
    """Hooks on layers that keep the sums over those uses whose gradient stands in `.grad`.

    A use is noted when its backward runs (a hook on the output), and counts when that backward adds to the weight's
    `.grad`: passes without a backward, `torch.autograd.grad` and copies of the model do not count; several uses in
    one pass and several backwards add up. Where `.grad` was None or has been zeroed, a new window begins: `zero_grad()`
    after a step that was never taken (a gradient scaler skips it) lets its sums go too. The host reads the device for
    that only where the step did not end the window and somebody has written into `.grad` since the last backward;
    what is written through `.grad.data` leaves no trace.

    Args:
        layers: What to hook.
        summed: Sums of one use; None for a use that does not count. Called in the backward; no tensor is tracked.
        samples: How many samples one use is of.
    """

    def __init__(
        self,
        layers: Mapping[str, Stepped],
        summed: Callable[[Use], AbstractSum | None],
        samples: Callable[[Use], int] = attrgetter("samples"),
    ) -> None:
        self.windows: dict[str, Window] = {}
        self._summed, self._samples = summed, samples
        self._pending: dict[int, dict[str, Window]] = {}  # by backward, while it runs: not all fill `.grad`
        self._observed: dict[str, Window] = {}
        self._fresh: dict[str, bool] = {}
        self._left: dict[str, tuple[int, int]] = {}  # which `.grad` a backward left, and how often written to
        self._observing = False
        self._handles: list[RemovableHandle] = []
        for name, layer in layers.items():
            for module in layer.modules:
                hook = _Hook(partial(self._forward, name, module))
                self._handles.append(module.register_forward_hook(hook, with_kwargs=True))
            self._handles.append(layer.weight.register_hook(partial(self._before, name, layer.weight)))
            self._handles.append(layer.weight.register_post_accumulate_grad_hook(partial(self._after, name)))

    @contextmanager
    def observing(self) -> Generator[None, None, None]:
        """Backwards meanwhile are of another loss: their uses count with the next backward that fills `.grad`.

        For `torch.autograd.grad` of what a user's model gave, ahead of the user's own backward.
        """
        self._observing = True
        try:
            yield
        finally:
            self._observing = False

    def clear(self) -> None:
        """Begin anew: the step is over."""
        self.windows, self._pending, self._observed = {}, {}, {}

    def close(self) -> None:
        """Take the hooks off and let the sums go."""
        for handle in self._handles:
            handle.remove()
        self.clear()

    def _forward(self, name: str, module: Layer, _called: Layer, args: Any, kwargs: Any, output: Tensor) -> None:
        """Wait for the backward of this use, if there is going to be one."""
        if output.requires_grad and torch.is_grad_enabled():
            x: Tensor = args[0] if args else kwargs["input"]
            output.register_hook(partial(self._backward, name, module, x.detach()))

    def _backward(self, name: str, module: Layer, x: Tensor, delta: Tensor) -> None:
        use = Use(module, x, delta.detach(), self._observing)  # nothing tracks: also with create_graph=True
        sums = self._summed(use)
        if sums is None:
            return
        window = Window(sums, self._samples(use))
        if self._observing:
            self._observed[name] = window if name not in self._observed else window.beside(self._observed[name])
        else:
            uses = self._uses_of(_running_backward())
            uses[name] = window if name not in uses else window.beside(uses[name])

    def _uses_of(self, backward: int) -> dict[str, Window]:
        """Uses in a running backward; what has not filled a `.grad` when it ends never will."""
        if backward not in self._pending:
            self._pending[backward] = {}
            _when_backward_ends(lambda: self._pending.pop(backward, None))
        return self._pending[backward]

    def _before(self, name: str, weight: Tensor, _gradient: Tensor) -> None:
        """Ahead of the sum into `.grad`, and in an `autograd.grad` of the weight."""
        grad = weight.grad
        untouched = grad is None or name not in self.windows or self._left.get(name) == _state(grad)
        self._fresh[name] = grad is None or not (untouched or bool(grad.any()))

    def _after(self, name: str, weight: Tensor) -> None:
        """The backward has added to `.grad`: its uses count."""
        if self._fresh.get(name, True):
            self.windows.pop(name, None)
        if weight.grad is not None:
            self._left[name] = _state(weight.grad)
        uses = self._pending.get(_running_backward(), {})
        used, observed = uses.pop(name, None), self._observed.pop(name, None)
        new = used.beside(observed) if used and observed else used or observed
        if new:
            self.windows[name] = new.after(self.windows[name]) if name in self.windows else new


class _Hook:
    """A hook that torch.compile leaves as it is, and that copies and pickles of the module lose."""

    __slots__ = ("_function",)
    _function: Callable[..., None]

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = not_compiled(function)

    def __call__(self, *args: Any) -> None:
        self._function(*args)

    def __reduce__(self) -> Any:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _nothing


def _nothing(*_: Any) -> None:
    """What a copy of a hooked module calls."""


def _running_backward() -> int:
    """Number of the backward that is running: one nested in another (reentrant checkpointing) has its own."""
    return torch._C._current_graph_task_id()  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def _when_backward_ends(function: Callable[[], object]) -> None:
    """Call `function` at the end of the backward that is running."""
    engine: Any = torch.autograd.Variable._execution_engine  # pyright: ignore[reportPrivateUsage]
    engine.queue_callback(function)


def _state(grad: Tensor) -> tuple[int, int]:
    return id(grad), grad._version
